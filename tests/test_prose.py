"""Pages are readable: short sentences, short paragraphs, and words that a reader knows."""

import re
from pathlib import Path

import pytest
from helpers import prose

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
MEAN, LONGEST, WALL = 17, 40, 90
"""Words of a sentence in the mean of a page and at most, and of a paragraph; those of code count, too."""
RIDDLES = (
    r"\b(?:is|are|was) told(?! apart)|by turns|left out, and said|promises? all|told of|held against|"
    r"in the places of|a favour to|as one likes|of those before"
)
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


@pages
def test_sentences_and_paragraphs_are_short(page):
    paragraphs = prose.paragraphs(page.read_text("utf-8"))
    sentences = [sentence for paragraph in paragraphs for sentence in prose.sentences(paragraph)]
    lengths = [prose.words(sentence) for sentence in sentences]
    assert [sentence for sentence, length in zip(sentences, lengths, strict=True) if length > LONGEST] == []
    assert [paragraph for paragraph in paragraphs if prose.words(paragraph) > WALL] == []
    if len(lengths) > 5:
        assert sum(lengths) / len(lengths) <= MEAN


@pages
def test_pages_have_no_riddles(page):
    text = re.sub(r"\s+", " ", page.read_text("utf-8"))
    assert re.findall(RIDDLES, text) == []


def test_sentences_are_counted_as_a_reader_does():
    text = """# A heading

One sentence, of `some code` and [two words](x.md#y). Another one.

- An item.
  It goes on.

| a | table |

    code

```python
more.code()
```
"""
    assert prose.paragraphs(text) == [
        "One sentence, of `some code` and [two words](x.md#y). Another one.",
        "An item. It goes on.",
    ]
    counted = [prose.words(part) for paragraph in prose.paragraphs(text) for part in prose.sentences(paragraph)]
    assert counted == [8, 2, 2, 3]

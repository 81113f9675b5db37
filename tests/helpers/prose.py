"""The sentences of a Markdown page: of its paragraphs and lists, without code, tables, headings and formulas."""

import re

_ITEM = re.compile(r"^\s*(?:[-*]|\d+\.)\s+")
_SKIPPED = re.compile(r"^(?: {4}|\t|#|\||!\[|: *$|\s*>?\s*$)")
_END = re.compile(r"(?<=[.!?])[*)”\"]*\s+(?=[A-Z0-9ÅÄÖ√Σ⟨|*\"“(`])")


def paragraphs(text):
    """The paragraphs and items of lists of a page, each as one line."""
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!--.*?-->|\$\$.*?\$\$", "", text, flags=re.DOTALL)
    found, current = [], []
    for line in [*text.splitlines(), ""]:
        item = _ITEM.match(line)
        if item or _SKIPPED.match(line):
            found.append(" ".join(current))
            current = []
        if item:
            current = [line[item.end() :].strip()]
        elif not _SKIPPED.match(line) or (current and line.startswith("    ") and not line.strip().startswith("|")):
            current.append(re.sub(r"^(?:: |> )", "", line).strip())
    return [paragraph for paragraph in found if paragraph]


def sentences(paragraph):
    """The sentences of a paragraph, with code and the texts of links as one reads them."""
    plain = re.sub(r"`[^`]*`", lambda code: re.sub(r"[.!?](?=\s)", "", code[0]), paragraph)  # it ends no sentence
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", plain)
    return [sentence for sentence in _END.split(plain) if sentence.strip()]


def words(text):
    """How many words a text has, those of code, too: what has a letter, or stands for a number."""
    return sum(bool(re.search(r"\w", word)) for word in text.split())

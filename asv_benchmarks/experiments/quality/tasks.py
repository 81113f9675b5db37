"""Tasks whose answers lie somewhere in a long text: needles, chains of variables, counted words. Made by a seed.

The text is Python's own language reference, which every Python carries (`pydoc_data.topics`). They are short versions
of our own, after the needle in a haystack and RULER (Hsieh and others, 2024). One text holds two tasks of each kind, so
that it is read once for eight questions.
"""

import random
import re
from itertools import pairwise
from typing import Any, NamedTuple

NAMES = """
    amber basin cedar delta ember fjord grove harbor island jungle kernel lagoon meadow nectar orchard
    pebble quarry ripple saddle timber umber valley willow yonder zephyr anchor beacon candle dagger
    engine falcon garnet hammer
"""
LISTS = {
    "animals": "horse tiger rabbit camel eagle whale monkey donkey lizard goose spider wolf",
    "fruits": "apple cherry banana lemon melon peach mango grape orange olive plum kiwi",
}
TASKS = ("needle", "one of eight needles", "chain of variables", "most common word")


class Question(NamedTuple):
    """What is asked after the text, and what is to be written."""

    task: str
    question: str
    answer: str


Hidden = tuple[list[list[str]], list[Question]]
"""Groups of sentences, each of which comes into the text in its order, and questions after them."""


def needles(draw: random.Random, names: list[str]) -> Hidden:
    """Hide one number of a kind, twice, and eight of another kind; ask for both of the first, and for two of eight."""
    kinds = [("needle", f"The {kind} of {names.pop()} is") for kind in ("magic number", "secret password")]
    kinds += [("one of eight needles", f"The telephone number of {names.pop()} is") for _ in range(8)]
    numbers = [f" {draw.randrange(1000, 10000)}" for _ in kinds]
    asked = [Question(task, text, number) for (task, text), number in zip(kinds, numbers, strict=True)]
    return [[one.question + one.answer + "." for one in asked]], asked[:4]


def alone(draw: random.Random, names: list[str]) -> Hidden:
    """Hide one number of a kind, twice, and nothing else."""
    groups, asked = needles(draw, names)
    return [groups[0][:2]], asked[:2]


def variables(draw: random.Random, names: list[str]) -> Hidden:
    """Give a number to a variable, copy it to another one, and that one again; twice. Ask for the last number."""
    groups, asked = [], []
    for _ in range(2):
        first, second, third = (names.pop().upper() for _ in range(3))
        number = str(draw.randrange(1000, 10000))
        copies = [f"Variable {name} is a copy of {before}." for before, name in pairwise((first, second, third))]
        groups.append([f"Variable {first} holds {number}.", *copies])
        question = f"Variable {third} is a copy of {second}, which is a copy of {first}. Variable {first} holds"
        asked.append(Question("chain of variables", question, f" {number}"))
    return groups, asked


def common(draw: random.Random, names: list[str]) -> Hidden:
    """Write one word fifteen times as often as others, in two lists; ask which."""
    groups, asked = [], []
    for kind, words in LISTS.items():
        own = draw.sample(words.split(), 6)
        listed = [own[0]] * 30 + own[1:] * 2
        draw.shuffle(listed)
        groups.append([f"Here is a list of {kind}: " + ", ".join(listed) + "."])
        question = f"Here is a list of mostly the same {kind}:"
        asked.append(Question("most common word", question, f" {own[0]}"))
    return groups, asked


def reference_text() -> str:
    """Return Python's language reference as plain text."""
    from pydoc_data.topics import topics

    return re.sub(r"\s+", " ", " ".join(topics[name] for name in sorted(topics)))


def drawn(
    tokenizer: Any, length: int, seed: int, *, needles_alone: bool = False
) -> tuple[list[int], list[tuple[str, list[int], list[int]]]]:
    """Draw a text of about so many tokens that hides all tasks, or two needles alone.

    Returns its tokens, and of each question the task and the tokens of the question and of the answer.
    """
    draw = random.Random(f"{length} {seed}")
    names = draw.sample(NAMES.split(), 16)
    groups, asked = [], []
    for kind in (alone,) if needles_alone else (needles, variables, common):
        hidden, questions = kind(draw, names)
        groups += hidden
        asked += questions
    sentences = reference_text().split(". ")
    start = draw.randrange(len(sentences) // 2)
    taken: list[str] = []
    tokens = sum(_count(tokenizer, sentence) for group in groups for sentence in group)
    while tokens < length:
        taken.append(sentences[start + len(taken)] + ".")
        tokens += _count(tokenizer, taken[-1])
    for group in groups:
        for place, sentence in zip(sorted(draw.sample(range(len(taken)), len(group))), group, strict=True):
            taken[place] += " " + sentence
    pairs = [(one.task, *(tokenizer(part)["input_ids"] for part in (" " + one.question, one.answer))) for one in asked]
    return tokenizer(" ".join(taken))["input_ids"], pairs


def _count(tokenizer: Any, sentence: str) -> int:
    return len(tokenizer(" " + sentence)["input_ids"])

"""Tasks whose answers lie somewhere in a long text: needles, chains of variables, counted words. Made by a seed.

The text is Python's own language reference, which every Python carries (`pydoc_data.topics`). They are short versions
of our own, after the needle in a haystack and RULER (Hsieh and others, 2024).
"""

import random
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

WORDS = """
    amber basin cedar delta ember fjord grove harbor island jungle kernel lagoon meadow nectar orchard
    pebble quarry ripple saddle timber umber valley willow yonder zephyr anchor beacon candle dagger
    engine falcon garnet hammer
"""


class Task(NamedTuple):
    """A task in pieces of text: what is read, what is asked, and what is to be written."""

    text: str
    question: str
    answer: str


def reference_text() -> str:
    """Return Python's language reference as plain text."""
    from pydoc_data.topics import topics

    return re.sub(r"\s+", " ", " ".join(topics[name] for name in sorted(topics)))


def needle(draw: random.Random, sentences: list[str]) -> Task:
    """Hide one number."""
    return _needles(draw, sentences, 1)


def needles(draw: random.Random, sentences: list[str]) -> Task:
    """Hide eight numbers, and ask for one of them."""
    return _needles(draw, sentences, 8)


def _needles(draw: random.Random, sentences: list[str], count: int) -> Task:
    names = draw.sample(WORDS.split(), count)
    numbers = [str(draw.randrange(1000, 10000)) for _ in names]
    hidden = [f"The magic number of {name} is {number}." for name, number in zip(names, numbers, strict=True)]
    return Task(_mixed(draw, sentences, hidden), f"The magic number of {names[0]} is", f" {numbers[0]}")


def variables(draw: random.Random, sentences: list[str]) -> Task:
    """Give a number to a variable, and that to another one, and so on; ask for the number of the last."""
    names = [name.upper() for name in draw.sample(WORDS.split(), 3)]
    number = str(draw.randrange(1000, 10000))
    hidden = [f"Let {names[0]} be {number}."]
    hidden += [f"Let {name} be the same as {before}." for before, name in pairwise(names)]
    question = f"{names[2]} is the same as {names[1]}, {names[1]} is the same as {names[0]}, and {names[0]} is"
    return Task(_mixed(draw, sentences, hidden), question, f" {number}")


def common(draw: random.Random, sentences: list[str]) -> Task:
    """Write one word far more often than others, in a list; ask which."""
    words = draw.sample(WORDS.split(), 12)
    listed = [words[0]] * 20 + words[1:] * 2
    draw.shuffle(listed)
    text = "Here are words: " + ", ".join(listed) + "."
    return Task(
        " ".join([*sentences[: len(sentences) // 2], text, *sentences[len(sentences) // 2 :]]),
        "In the list of words, the one that is there most often is",
        f" {words[0]}",
    )


def _mixed(draw: random.Random, sentences: list[str], hidden: list[str]) -> str:
    mixed = list(sentences)
    for place, sentence in zip(sorted(draw.sample(range(len(mixed)), len(hidden))), hidden, strict=True):
        mixed[place] += " " + sentence
    return " ".join(mixed)


TASKS: dict[str, Callable[[random.Random, list[str]], Task]] = {
    "needle": needle,
    "one of eight needles": needles,
    "chain of variables": variables,
    "most common word": common,
}


def drawn(name: str, tokenizer: Any, length: int, seed: int) -> tuple[list[int], list[int], list[int]]:
    """Draw a task whose text takes about so many tokens; returns the tokens of its text, question and answer."""
    draw = random.Random(f"{name} {length} {seed}")
    sentences = reference_text().split(". ")
    start = draw.randrange(len(sentences) // 2)
    taken, tokens = [], 0
    while tokens < length - 250:
        taken.append(sentences[start + len(taken)] + ".")
        tokens += len(tokenizer(" " + taken[-1])["input_ids"])
    task = TASKS[name](draw, taken)
    text, question, answer = (tokenizer(part)["input_ids"] for part in (task.text, " " + task.question, task.answer))
    return text, question, answer

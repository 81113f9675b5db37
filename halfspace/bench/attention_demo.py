"""The demo of attention: a language model reads and writes, dense and with a certificate, side by side."""

from __future__ import annotations

import time
from dataclasses import dataclass
from inspect import signature
from statistics import median
from typing import TYPE_CHECKING, Any

from halfspace.bench import smollm
from halfspace.datasets import load_pydocs

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Written", "run", "show"]

MOST_CONTEXT = 8000
"""Tokens that the model reads, at most: it was made for 8,192."""
_QUESTION = "What does {name} do?"


@dataclass(frozen=True)
class Written:
    """What the model wrote both ways, and what the certificate says.

    ``kept`` is the mean share of the keys that was attended over all layers, heads and steps, ``dropped`` the largest
    bound of the share of a softmax that was not. The output of a head is then within ``2 * dropped`` of the length of
    its longest value.
    """

    eps: float
    context: int
    question: str
    text: str
    tokens: int
    equal: int
    certificates: int
    kept: float
    dropped: float
    dense_ms: float
    certified_ms: float


class _Counted:
    """Counts what the layers of a cache keep, and the largest share that any of them drops."""

    def __init__(self) -> None:
        self.shares: list[float] = []
        self.certificates = 0
        self.dropped = 0.0

    def watch(self, index: Any) -> None:
        attend = index.attend

        def counted(q: Any, **how: Any) -> Any:
            found = attend(q, **how, details=True)
            self.shares.append(float(found.kept.double().mean()) / int(index.lengths[0]))
            self.certificates += found.kept.numel()
            self.dropped = max(self.dropped, float(found.dropped.max()))
            return found.output

        index.attend = counted


def _prompt(tokenizer: Any, context: int) -> tuple[Any, str]:
    """Make a prompt of about so many tokens: lines of Python's documentation, and a question about one of them."""
    docs = load_pydocs()
    lines, length, at = [], 0, 0
    while length < context - 150:
        name, text = str(docs.names[at]), str(docs.texts[at]).split(". ")[0]
        lines.append(f"{name}: {text}")
        length += len(tokenizer(lines[-1] + "\n")["input_ids"])
        at += 13
    question = _QUESTION.format(name=lines[len(lines) // 2].partition(": ")[0])
    asked = [{"role": "user", "content": "\n".join(lines) + f"\n\n{question}"}]
    given = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    return given["input_ids"], question


def run(eps: float = 0.01, *, context: int = 2048, new: int = 48, threads: int | None = None) -> Written:
    """Let SmolLM2-135M-Instruct read Python's documentation and answer a question, dense and certified by turns.

    Parameters
    ----------
    eps : float
        The share of each head's softmax that may be dropped.
    context : int
        About how many tokens it reads, from 512 to 8,000.
    new : int
        How many tokens it writes, at most.
    threads : int, optional
        Threads of the index; PyTorch has its own.

    Returns
    -------
    Written

    Raises
    ------
    ValueError
        If a package is missing, or an argument is out of range.
    """
    if not 512 <= context <= MOST_CONTEXT:
        raise ValueError(f"context must be from 512 to {MOST_CONTEXT}, got {context}")
    model, tokenizer = smollm.load()
    import torch
    from transformers import DynamicCache

    from halfspace.attention.hf import HalfspaceCache

    ids, question = _prompt(tokenizer, context)
    given = "cache" if "cache" in signature(type(model).forward).parameters else "past_key_values"  # since 5.24
    dense = DynamicCache(config=model.config)

    def step(tokens: Any, cache: Any) -> tuple[int, float]:
        start = time.perf_counter()
        with torch.inference_mode():
            logits = model(tokens, use_cache=True, logits_to_keep=1, **{given: cache}).logits
        return int(logits[0, -1].argmax()), time.perf_counter() - start

    token, _ = step(ids, dense)
    certified = HalfspaceCache.from_cache(dense, model.config, eps=eps, threads=threads)
    sides: tuple[tuple[Any, list[int], list[float]], ...] = (dense, [token], []), (certified, [token], [])
    counted = _Counted()
    for at in range(new - 1):
        for cache, written, times in sides:
            if written[-1] != tokenizer.eos_token_id:
                token, spent = step(torch.tensor([written[-1:]]), cache)
                written.append(token)
                if at:  # the first step compiles
                    times.append(spent)
        if at == 0:
            for layer in certified.layers:
                counted.watch(layer.index)
    theirs, own = (written for _, written, _ in sides)
    equal = next((at for at, pair in enumerate(zip(theirs, own, strict=False)) if pair[0] != pair[1]), len(theirs))
    return Written(
        eps=eps,
        context=ids.shape[1],
        question=question,
        text=tokenizer.decode(own, skip_special_tokens=True).strip(),
        tokens=len(theirs),
        equal=equal,
        certificates=counted.certificates,
        kept=sum(counted.shares) / max(1, len(counted.shares)),
        dropped=counted.dropped,
        dense_ms=1e3 * median(sides[0][2] or [0.0]),
        certified_ms=1e3 * median(sides[1][2] or [0.0]),
    )


def show(report: Written, console: Console) -> None:
    """Print a report for people."""
    from rich.table import Table
    from rich.text import Text

    def line(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    line(f"SmolLM2-135M-Instruct, {report.context:,} tokens of Python's documentation, eps = {report.eps:g}\n")
    line(report.question, "bold")
    line(f"  {report.text}")
    line("\nCertificate", "bold")
    same = report.equal == report.tokens
    line(
        f"  {report.equal} of {report.tokens} tokens are those of dense attention"
        + ("" if same else ", up to the first that differs"),
        "green" if same else "",
    )
    line(
        f"  {report.certificates:,} softmaxes, {report.kept:.1%} of the keys attended in the mean; none dropped\n"
        f"  more than {report.dropped:.3%}: no output is off by more than {2 * report.dropped:.3%} of its longest value"
    )
    line("\nTime of a step, median, by turns", "bold")
    table = Table(box=None, pad_edge=True, show_header=False)
    table.add_row("dense attention of PyTorch", f"{report.dense_ms:.1f} ms")
    table.add_row("halfspace, certified", f"{report.certified_ms:.1f} ms")
    console.print(table)

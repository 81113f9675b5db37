"""Sets of vectors that are searched within a radius, by name: their files, their metric and their threshold.

Eight radii are those of "Range Retrieval with Graph-Based Indices" (Manohar, Kim and Blelloch, arXiv 2502.13245), as
its authors' code has them; that of ``ssnpp`` is the set's own. None of the vectors are in this package.

>>> from halfspace.bench.presets import PRESETS
>>> PRESETS["bigann"].metric, PRESETS["bigann"].tau, PRESETS["wikipedia"].tau
('l2', 100.0, 10.5)
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfspace.arguments import checks

__all__ = ["PRESETS", "Preset", "resolve", "table"]


@dataclass(frozen=True)
class Preset:
    """A set, and what it is searched for.

    Attributes
    ----------
    about : str
        What the vectors are.
    vectors, directions : str
        Names of its files; of the vectors, the first rows may lie in a file that goes on with ``.crop_nb_1000000``.
    metric : {"l2", "ip"}
    limit : str
        The largest square of a distance, or the least inner product, as a decimal number.
    """

    about: str
    vectors: str
    directions: str
    metric: str
    limit: str

    @property
    def tau(self) -> float:
        """The radius, or the least inner product.

        The square root is rounded up, so that a distance whose square is the limit is within the radius.
        """
        limit = Fraction(self.limit)
        if self.metric == "ip":
            return float(limit)
        root = math.sqrt(limit)
        return root if Fraction(root) ** 2 >= limit else math.nextafter(root, math.inf)

    def limits(self, m: int) -> NDArray[np.float64]:
        """Return the threshold of each of m directions."""
        return np.full(m, self.tau)


PRESETS = {
    "bigann": Preset("SIFT features of images", "base.1B.u8bin", "query.public.10K.u8bin", "l2", "10000"),
    "deep": Preset("features of images, by a network", "base.1B.fbin", "query.public.10K.fbin", "l2", "0.02"),
    "gist": Preset("GIST features of images", "gist_base.fbin", "gist_query_10K.fbin", "l2", "0.5"),
    "msmarco": Preset("web pages, MS MARCO Web Search", "vectors.bin", "query.bin", "ip", "62"),
    "msturing": Preset("queries of Bing", "base1b.fbin", "query100K.fbin", "l2", "0.3"),
    "openai": Preset("abstracts of arXiv, ada-002", "openai_base.bin", "openai_query_10K.bin", "l2", "0.2"),
    "ssnpp": Preset(
        "SimSearchNet++, copies of images", "FB_ssnpp_database.u8bin", "FB_ssnpp_public_queries.u8bin", "l2", "96237"
    ),
    "text2image": Preset("images, asked by texts", "base.1B.fbin", "query.public.100K.fbin", "ip", "0.6"),
    "wikipedia": Preset("paragraphs of Wikipedia, Cohere", "wikipedia_base.bin", "wikipedia_query.bin", "ip", "10.5"),
}
"""Sets by their names."""


def resolve(name: str, vectors: str | None, directions: str | None) -> tuple[Preset, str, str]:
    """Return a set and its files of vectors and directions.

    Parameters
    ----------
    name : str
    vectors, directions : str, optional
        Both files; or, without the second, the folder that they are in under their own names.

    Raises
    ------
    ValueError
        If there is no such set, or a file is not in the folder, or several may be meant.
    """
    preset = PRESETS[checks.one_of(name, "--preset", tuple(PRESETS))]
    if vectors is not None and directions is not None:
        return preset, vectors, directions
    if vectors is None or not Path(vectors).is_dir():
        raise ValueError(
            f"--preset {name}: give the folder of {preset.vectors} and {preset.directions}, or both files, that of the "
            "vectors first"
        )
    return preset, _one(preset.vectors, Path(vectors)), _one(preset.directions, Path(vectors))


def _one(name: str, folder: Path) -> str:
    """Return the file of this name, or the only one that goes on with ``.crop_nb_`` and a number."""
    if (folder / name).exists():
        return str(folder / name)
    numbered = re.compile(rf"{re.escape(name)}\.crop_nb_[0-9]+")
    cropped = sorted(path for path in folder.glob(f"{name}.crop_nb_*") if numbered.fullmatch(path.name))
    if len(cropped) != 1:
        found = ", ".join(path.name for path in cropped)
        what = f"several may be meant: {found}" if found else f"there is neither {name} nor {name}.crop_nb_1000000"
        raise ValueError(f"{folder}: {what}; give both files, that of the vectors and that of the directions")
    return str(cropped[0])


def table() -> str:
    """Return all of them as a table of Markdown."""
    lines = ["| set | vectors | threshold | files |", "| --- | --- | --- | --- |"]
    for name, preset in PRESETS.items():
        limit = f"distance ≤ √{preset.limit}" if preset.metric == "l2" else f"product ≥ {preset.limit}"
        lines.append(f"| `{name}` | {preset.about} | {limit} | `{preset.vectors}`, `{preset.directions}` |")
    return "\n".join(lines)

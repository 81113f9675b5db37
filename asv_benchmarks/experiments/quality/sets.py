"""Which keys hold the mass of real attention, and what the index promises about those that it drops.

All figures are of the dense model's own queries, keys and values, scored in float64.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from asv_benchmarks.experiments.quality.decoding import Lab, Steps, by_group
from halfspace.attention import KVIndex

CERTIFIED = (1e-1, 1e-2, 1e-3)
HALF = 0.5
ROUNDING = {"float32": 2.0**-20, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Rounding that an output may carry, as a share of the largest value."""


def weights_of(steps: Steps, dtype: str) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield for each step its float64 logits and weights (query_heads, keys), and dense attention's output."""
    stored = getattr(torch, dtype)
    queries, keys, values = (x.to(stored).double() for x in (steps.queries, steps.keys, steps.values))
    turned = keys.transpose(1, 2).contiguous()
    for t in range(queries.shape[1]):
        seen = steps.first + t + 1
        logits = by_group(queries[:, t : t + 1], turned[:, :, :seen])[:, 0] * steps.scale
        weights = logits.softmax(-1)
        yield logits, weights, by_group(weights[:, None], values[:, :seen])[:, 0]


def ascending(weights: torch.Tensor) -> torch.Tensor:
    """Mass of the lightest keys, one more in each column: (query_heads, keys)."""
    return weights.sort(-1).values.cumsum(-1)


def smallest(light: torch.Tensor, share: float) -> torch.Tensor:
    """Size of the smallest set that holds a share of the mass, from `ascending` weights: int64 (query_heads,)."""
    return light.shape[-1] - (light <= 1 - share).sum(-1)


def half_sets(lab: Lab) -> list[dict[str, Any]]:
    """How the size of the set that holds half of the mass moves from step to step: a row per layer."""
    rows = []
    for layer in range(lab.layers):
        steps = lab.shared["dense", layer]
        sizes = torch.stack(
            [smallest(ascending(weights), HALF) for _, weights, _ in weights_of(steps, "float32")], 1
        ).double()
        moves = (sizes[:, 1:] / sizes[:, :-1]).log2().abs()
        level = sizes.quantile(torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95]).double())
        rows.append(
            {
                "layer": layer,
                "quantiles 5 25 50 75 95": level.tolist(),
                "largest over smallest in a head, median": float((sizes.amax(1) / sizes.amin(1)).median()),
                "factor between neighbouring steps, median": float(2 ** moves.median()),
                "factor between neighbouring steps, 95 %": float(2 ** moves.flatten().quantile(0.95)),
                "variation over steps, mean of heads": float((sizes.std(1) / sizes.mean(1)).mean()),
                "sizes of the first head": sizes[0].long().tolist(),
            }
        )
    return rows


def certificates(lab: Lab, dtype: str) -> Iterator[dict[str, Any]]:
    """Hold what `eps` promises against float64: a row per layer and eps."""
    for layer in range(lab.layers):
        steps = lab.shared["dense", layer]
        stored = getattr(torch, dtype)
        queries, keys, values = (x.to(stored) for x in (steps.queries, steps.keys, steps.values))
        heads, count, dim = keys.shape
        index = KVIndex(heads, dim, num_query_heads=len(queries), dtype=dtype, scale=steps.scale, capacity=count)
        index.append(keys[:, : steps.first].contiguous(), values[:, : steps.first].contiguous())
        found: dict[float, list[np.ndarray]] = {eps: [] for eps in CERTIFIED}
        for t, (logits, weights, output) in enumerate(weights_of(steps, dtype)):
            seen = steps.first + t + 1
            index.append(keys[:, seen - 1], values[:, seen - 1])
            largest = values[:, :seen].double().norm(dim=-1).amax(1).repeat_interleave(len(queries) // heads)
            light = ascending(weights)
            for eps in CERTIFIED:
                attended = index.attend(queries[:, t].contiguous(), eps=eps, details=True)
                tau = torch.as_tensor(attended.tau).reshape(-1, 1)
                below = logits < tau * steps.scale
                dropped = torch.where(below, weights, 0).sum(-1)
                error = (torch.as_tensor(attended.output).double() - output).norm(dim=-1) / largest
                simple = (logits >= logits.amax(-1, keepdim=True) + math.log(eps / seen)).sum(-1)
                kept = torch.as_tensor(attended.kept).reshape(-1)
                columns = [
                    dropped,
                    torch.as_tensor(attended.dropped).reshape(-1),
                    error,
                    kept,
                    smallest(light, 1 - eps),
                    simple,
                    kept - (~below).sum(-1),
                ]
                found[eps].append(np.stack([np.asarray(x, np.float64) for x in columns]))
        for eps, own in found.items():
            yield certificate(layer, dtype, eps, np.stack(own, 2), steps.first)


def certificate(layer: int, dtype: str, eps: float, figures: np.ndarray, first: int) -> dict[str, Any]:
    """Sum up figures (7, query_heads, steps)."""
    dropped, bound, error, kept, least, simple, apart = figures
    seen = first + 1 + np.arange(kept.shape[1])
    return {
        "layer": layer,
        "dtype": dtype,
        "eps": eps,
        "pairs": int(kept.size),
        "dropped, largest": float(dropped.max()),
        "dropped, mean": float(dropped.mean()),
        "pairs above eps": int((dropped > eps).sum()),
        "pairs above their bound": int((dropped > bound).sum()),
        "output error over max|v|, largest": float(error.max()),
        "outputs beyond 2 eps": int((error > 2 * eps + ROUNDING[dtype]).sum()),
        "kept": float((kept / seen).mean()),
        "smallest set": float((least / seen).mean()),
        "simple bound": float((simple / seen).mean()),
        "kept / smallest, mean": float((kept / least).mean()),
        "kept / smallest, worst": float((kept / least).max()),
        "kept / smallest, of the means": float(kept.mean() / least.mean()),
        "simple / smallest, mean": float((simple / least).mean()),
        "variation of kept": variation(kept / seen),
        "counts that differ from float64": int((apart != 0).sum()),
    }


def variation(shares: Any) -> dict[str, float]:
    """Coefficients of variation of shares (query_heads, steps), or with layers before them."""
    x = np.asarray(shares, np.float64)
    x = x.reshape(-1, x.shape[-1])
    return {
        "mean": float(x.mean()),
        "over all": float(x.std() / x.mean()),
        "over steps, mean of heads": float((x.std(1) / x.mean(1)).mean()),
        "over heads, of their means": float(x.mean(1).std() / x.mean()),
    }

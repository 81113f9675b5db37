"""Ways to choose the keys of a decode step: the published ones as masks on dense scores, and ours.

A share f is a budget of ceil(f n) keys for each query head, where n keys could be seen; all layers are treated alike.
"""

import math
from collections.abc import Callable
from typing import Any

import faiss
import torch

from asv_benchmarks.experiments.quality.decoding import Lab, Method, Steps, by_group
from halfspace.attention import KVIndex

SINKS = 4
PAGE = 16
LINKS, BREADTH, SEARCH = 32, 128, 128
"""Links per node of the HNSW graph, and the least breadth of the search when it is built, and when it is asked."""


def budgets(steps: Steps, share: float, begin: int, end: int) -> torch.Tensor:
    """How many keys each step may keep: int64 (end - begin,)."""
    return torch.tensor([max(1, math.ceil(share * (steps.first + t + 1))) for t in range(begin, end)])


def masked(choose: Callable[[Steps, torch.Tensor, int, int], torch.Tensor]) -> Method:
    """Make a method of a function (steps, scores, begin, end) -> mask of the keys to keep, all of scores' shape."""

    def method(steps: Steps) -> tuple[torch.Tensor, torch.Tensor]:
        outputs, counts = [], []
        for begin, end in steps.blocks():
            scores = steps.scores(begin, end)
            mask = choose(steps, scores, begin, end) & (scores > -torch.inf)
            weights = scores.masked_fill_(~mask, -torch.inf).softmax(-1)
            outputs.append(by_group(weights, steps.values[:, : weights.shape[2]]))
            counts.append(mask.sum(-1))
        return torch.cat(outputs, 1), torch.cat(counts, 1)

    return method


def dense() -> Method:
    """All keys."""
    return masked(lambda steps, scores, begin, end: torch.ones_like(scores, dtype=torch.bool))


def best(share: float) -> Method:
    """The exact top-k: what an oracle would keep."""

    def choose(steps: Steps, scores: torch.Tensor, begin: int, end: int) -> torch.Tensor:
        counts = budgets(steps, share, begin, end)
        least = scores.topk(int(counts.max())).values.gather(2, (counts - 1).expand(len(scores), -1)[..., None])
        return scores >= least

    return masked(choose)


def streaming(share: float) -> Method:
    """StreamingLLM: the first four tokens and the most recent ones."""

    def choose(steps: Steps, scores: torch.Tensor, begin: int, end: int) -> torch.Tensor:
        where = torch.arange(scores.shape[2])
        window = budgets(steps, share, begin, end) - SINKS
        since = torch.arange(steps.first + begin, steps.first + end) - window
        return ((where < SINKS) | (where > since[:, None])).expand_as(scores)

    return masked(choose)


def pages(share: float) -> Method:
    """Quest: pages of 16 keys, by the upper bound from their least and largest coordinates; the last page always."""

    def choose(steps: Steps, scores: torch.Tensor, begin: int, end: int) -> torch.Tensor:
        full = (steps.first + end) // PAGE
        paged = steps.keys[:, : full * PAGE].unflatten(1, (full, PAGE))
        low, high = paged.amin(2).transpose(1, 2), paged.amax(2).transpose(1, 2)
        queries = steps.queries[:, begin:end]
        bounds = by_group(queries.clamp(min=0), high) + by_group(queries.clamp(max=0), low)
        mask = torch.zeros_like(scores, dtype=torch.bool)
        for t, budget in enumerate(budgets(steps, share, begin, end).tolist()):
            seen = steps.first + begin + t + 1
            last = (seen - 1) // PAGE
            count = max(1, round((budget - (seen - last * PAGE)) / PAGE))
            chosen = bounds[:, t, :last].topk(count).indices
            keys = (chosen[..., None] * PAGE + torch.arange(PAGE)).flatten(1)
            mask[:, t].scatter_(1, keys, True)
            mask[:, t, last * PAGE : seen] = True
        return mask

    return masked(choose)


def heavy(share: float) -> Method:
    """H2O: half of the budget for keys with the most attention so far, half for the last ones; what goes is gone."""

    def method(steps: Steps) -> tuple[torch.Tensor, torch.Tensor]:
        heads, count, dim = steps.queries.shape
        total = torch.zeros(heads, steps.first + count)
        total[:, : steps.first] = steps.mass
        alive = torch.ones_like(total, dtype=torch.bool)
        output, kept = torch.empty(heads, count, dim), torch.empty(heads, count, dtype=torch.int64)
        for begin, end in steps.blocks():
            scores = steps.scores(begin, end)
            for t, budget in enumerate(budgets(steps, share, begin, end).tolist(), start=begin):
                seen = steps.first + t + 1
                recent = seen - budget // 2
                rank = total[:, :recent].masked_fill(~alive[:, :recent], -1)
                heavy = rank.topk(budget - budget // 2).indices
                alive[:, :recent] &= torch.zeros_like(alive[:, :recent]).scatter_(1, heavy, True)
                own = scores[:, t - begin, :seen].masked_fill(~alive[:, :seen], -torch.inf)
                weights = own.softmax(-1)
                total[:, :seen] += weights
                output[:, t] = by_group(weights[:, None], steps.values[:, :seen])[:, 0]
                kept[:, t] = alive[:, :seen].sum(-1)
        return output, kept

    return method


class Graph:
    """The top-k of an HNSW graph over inner products, to which each step adds its key."""

    def __init__(self, lab: Lab, share: float) -> None:
        self.lab, self.share, self.found, self.wanted = lab, share, 0, 0
        self._method = masked(self._choose)

    @property
    def recall(self) -> float:
        """Share of the real top-k that was found, over all layers, heads and steps so far."""
        return self.found / self.wanted

    def __call__(self, steps: Steps) -> tuple[torch.Tensor, torch.Tensor]:
        name = ("graph", steps.layer)
        if name not in self.lab.shared:
            self.lab.shared[name] = [self._build(keys[: steps.first]) for keys in steps.keys]
        self.graphs = [faiss.clone_index(graph) for graph in self.lab.shared[name]]
        return self._method(steps)

    def _build(self, keys: torch.Tensor) -> Any:
        graph = faiss.IndexHNSWFlat(keys.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = BREADTH
        graph.add(keys.numpy())
        return graph

    def _choose(self, steps: Steps, scores: torch.Tensor, begin: int, end: int) -> torch.Tensor:
        mask = torch.zeros_like(scores, dtype=torch.bool)
        group = len(scores) // len(self.graphs)
        for t, budget in enumerate(budgets(steps, self.share, begin, end).tolist()):
            for head, graph in enumerate(self.graphs):
                where = steps.first + begin + t
                graph.add(steps.keys[head, where : where + 1].numpy())
                own = slice(head * group, (head + 1) * group)
                options = faiss.SearchParametersHNSW(efSearch=max(SEARCH, budget))
                _, found = graph.search(steps.queries[own, begin + t].numpy(), budget, params=options)
                ids = torch.from_numpy(found)
                mask[own, t] = (
                    torch.zeros(group, scores.shape[2]).scatter_add_(1, ids.clamp(min=0), (ids >= 0).float()) > 0
                )
            real = scores[:, t].topk(budget).indices
            self.found += int(mask[:, t].gather(1, real).sum())
            self.wanted += real.numel()
        return mask


def ours(lab: Lab, share: float | None = None, **how: Any) -> Method:
    """The real index: `how` is what `KVIndex.attend` takes; with a `share`, the threshold of an oracle.

    The oracle's threshold of a head is the float64 midpoint between the last score to keep and the next one.
    """

    def method(steps: Steps) -> tuple[torch.Tensor, torch.Tensor]:
        index = index_of(lab, steps)
        exact = None if share is None else steps.keys.double().transpose(1, 2).contiguous()
        outputs, counts = [], []
        for t in range(steps.queries.shape[1]):
            seen = steps.first + t + 1
            index.append(steps.keys[:, seen - 1], steps.values[:, seen - 1])
            query = steps.queries[:, t]
            options = how
            if exact is not None:
                budget = int(budgets(steps, share, t, t + 1))
                scores = by_group(query[:, None].double(), exact[:, :, :seen])[:, 0]
                options = {"tau": scores.topk(budget + 1).values[:, -2:].mean(-1).numpy()}
            attended = index.attend(query.contiguous(), details=True, **options)
            outputs.append(attended.output)
            counts.append(attended.kept.reshape(-1))
        return torch.stack(outputs, 1), torch.stack(counts, 1).long()

    return method


def index_of(lab: Lab, steps: Steps) -> KVIndex:
    """An index of the prefill's keys, without those of the steps."""
    name = ("index", steps.layer)
    if name not in lab.shared:
        heads, _, dim = steps.keys.shape
        index = KVIndex(heads, dim, num_query_heads=len(steps.queries), dtype="float32", scale=steps.scale)
        index.append(steps.keys[:, : steps.first].contiguous(), steps.values[:, : steps.first].contiguous())
        lab.shared[name] = index
    lab.shared[name].crop(steps.first)
    return lab.shared[name]

"""Whether the threshold of one decode step would do for the next one: a certificate could then be had in one launch.

    python -m asv_benchmarks.experiments.attention_steps --captures FOLDER [--keys 32768] [--eps 0.1 0.01]

FOLDER holds `pycode_lm.py` and its model, as for `attention_gpu.py`; it runs on the CPU. Of the last STEPS queries of
each head, the smallest set of keys that holds a share 1 - eps of the softmax says what the threshold is. That of the
step before is then taken over, lowered by a margin: as it is, or relative to the log-sum-exp, had that been known.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

LAYERS_AND_HEADS = ((1, 0), (1, 1), (2, 0), (2, 1), (3, 1), (4, 0), (5, 0), (5, 1))
GROUP, STEPS = 4, 128
MARGINS = (0.0, 1.0, 2.0, 3.0)


def captured(folder, rows):
    """Logits (STEPS, rows) of each query head, in nats, -inf where a key is of the future."""
    import torch

    sys.path.insert(0, str(folder))
    import pycode_lm

    found = []
    with torch.no_grad():
        pycode_lm.load()(pycode_lm.heldout()[None, :rows], found)
    future = np.arange(rows) > np.arange(rows - STEPS, rows)[:, None]
    for layer, head in LAYERS_AND_HEADS:
        queries, keys = found[layer][0][0], found[layer][1][0, head].numpy()
        for own in queries[GROUP * head : GROUP * (head + 1), -STEPS:].numpy():
            yield np.where(future, -np.inf, own @ keys.T / np.sqrt(keys.shape[1]))


def examined(logits, eps):
    """Of each step: logits and sums of weights from the highest on, log-sum-exp, the size of the smallest set."""
    ordered = -np.sort(-logits, axis=1)
    weights = np.cumsum(np.exp(ordered - ordered[:, :1]), axis=1)
    least = (weights < (1 - eps) * weights[:, -1:]).sum(axis=1) + 1
    return ordered, weights, ordered[:, 0] + np.log(weights[:, -1]), least


def taken_over(steps, thresholds, eps):
    """How many keys reach thresholds (STEPS - 1,) of all but the first step, and whether enough do."""
    ordered, weights, _, _ = steps
    kept = (ordered[1:] >= thresholds[:, None]).sum(axis=1)
    held = np.take_along_axis(weights[1:], np.maximum(kept - 1, 0)[:, None], axis=1)[:, 0]
    return kept, (kept > 0) & (held >= (1 - eps) * weights[1:, -1])


def main():
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--captures", type=Path, required=True)
    arguments.add_argument("--keys", type=int, default=32768)
    arguments.add_argument("--eps", type=float, nargs="+", default=[0.1, 0.01])
    options = arguments.parse_args()
    heads = list(captured(options.captures, options.keys))
    print("| eps | taken over | margin, nats | kept / smallest set | heads that hold | sets of four that hold |")
    print("|---|---|---|---|---|---|")
    for eps in options.eps:
        all_steps = [examined(logits, eps) for logits in heads]
        taus = [np.take_along_axis(steps[0], steps[3][:, None] - 1, axis=1)[:, 0] for steps in all_steps]
        moves = np.concatenate([np.diff(tau) for tau in taus])
        for name in ("as it is", "relative"):
            for margin in MARGINS:
                kept, least, holds = [], [], []
                for steps, tau in zip(all_steps, taus, strict=True):
                    offset = 0.0 if name == "as it is" else np.diff(steps[2])
                    own, held = taken_over(steps, tau[:-1] + offset - margin, eps)
                    kept.append(own), least.append(steps[3][1:]), holds.append(held)
                holds = np.array(holds)
                sets = holds.reshape(-1, GROUP, STEPS - 1).all(axis=1)
                ratio = np.sum(kept) / np.sum(least)
                print(
                    f"| {eps:g} | {name} | {margin:g} | {ratio:.2f} | {holds.mean():.1%} | {sets.mean():.1%} |",
                    flush=True,
                )
        print(f"\nThresholds for eps = {eps:g} move by {moves.std():.1f} nats from step to step, standard deviation.\n")


if __name__ == "__main__":
    main()

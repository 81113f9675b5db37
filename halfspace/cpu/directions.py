"""Directions, prepared once for all segments: measured, widened, and coded in two digits of 8 bits."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halfspace.cpu._jit import entry
from halfspace.cpu.bounds import dot32_intercept, dot32_slope, dot_intercept, dot_slope, norm_bound, reach
from halfspace.cpu.formats import exact64, leading_bit, lowest_bit

__all__ = ["PLAN", "Directions", "prepare"]

DIGIT_LIMIT = 127 * 256 + 127
"""Largest |A_j|: two signed digits of 8 bits, the high one within 127."""

PLAN = np.dtype(
    [
        ("norm", np.float64),  # upper bound of |q|
        ("grain", np.float64),  # a power of two of which every q_j is a multiple
        ("slope", np.float64),  # error of a float64 dot product: slope * |x| + intercept
        ("intercept", np.float64),
        ("slope32", np.float64),  # the same of a float32 dot product
        ("intercept32", np.float64),
        ("digit_scale", np.float64),  # a, a power of two
        ("reach", np.float64),  # k: what the coding of q costs, per unit of a cell's scale
        ("bias", np.int64),  # 128 sum_j A_j, since codes are stored as c + 128
    ]
)
"""What the stages need to know of a direction, besides its components and digits."""


class Directions(NamedTuple):
    """Directions as the stages see them, space by space."""

    narrow: npt.NDArray[np.float32]  # (m, d)
    wide: npt.NDArray[np.float64]  # (m, d), the same values
    digits: npt.NDArray[np.int8]  # (m, steps, 2, 4): of four dimensions the high digits, then the low ones
    plans: np.ndarray  # PLAN (m,)

    def every(self, step: int, first: int) -> "Directions":
        """Copy the direction `first`, and every `step`-th after it."""
        return Directions(
            self.narrow[first::step].copy(),
            self.wide[first::step].copy(),
            self.digits[first::step].copy(),
            self.plans[first::step].copy(),
        )


def prepare(directions: npt.NDArray[np.float32]) -> Directions:
    """Prepare directions (m, d) of finite float32."""
    count, dim = directions.shape
    prepared = Directions(
        directions,
        np.empty((count, dim)),
        np.zeros((count, -(-dim // 4), 2, 4), np.int8),
        np.empty(count, PLAN),
    )
    _prepare(*prepared)
    return prepared


@entry
def _prepare(narrow, wide, digits, plans):
    count, dim = narrow.shape
    for i in range(count):
        total = 0.0
        largest = 0.0
        grain = np.inf
        for j in range(dim):
            value = exact64(narrow[i, j])
            wide[i, j] = value
            total += value * value
            largest = max(largest, abs(value))
            if value != 0.0:
                grain = min(grain, lowest_bit(narrow[i, j]))
        norm = norm_bound(total, dim)
        scale = 1.0
        if largest > 0.0:
            scale = leading_bit(largest) * 2.0**-14
            if scale * DIGIT_LIMIT < largest:
                scale *= 2.0
        bias = np.int64(0)
        rest = 0.0
        for j in range(dim):
            digit = np.int64(np.rint(wide[i, j] / scale))
            error = wide[i, j] - digit * scale
            rest += error * error
            high = (digit + 128) >> 8
            digits[i, j // 4, 0, j % 4] = high
            digits[i, j // 4, 1, j % 4] = digit - 256 * high
            bias += digit
        plan = plans[i]
        plan.norm = norm
        plan.grain = grain
        plan.slope = dot_slope(dim, norm)
        plan.intercept = dot_intercept(dim, norm)
        plan.slope32 = dot32_slope(dim, norm)
        plan.intercept32 = dot32_intercept(dim, norm)
        plan.digit_scale = scale
        plan.reach = reach(scale, norm_bound(rest, dim), norm, dim)
        plan.bias = 128 * bias

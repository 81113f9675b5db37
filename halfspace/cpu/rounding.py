"""The bounds of `halfspace.model.rounding`, compiled."""

from halfspace.cpu.runtime.jit import inlined
from halfspace.model import rounding

__all__ = [
    "axes_error",
    "axes_rest",
    "dot32_intercept",
    "dot32_slope",
    "dot_intercept",
    "dot_slope",
    "exact_below",
    "least_norm",
    "longest_product",
    "norm_bound",
    "pair_margin",
    "radius_factor",
    "reach",
    "residual_bound",
    "threshold_margin",
]

axes_error = inlined(rounding.axes_error)
axes_rest = inlined(rounding.axes_rest)
least_norm = inlined(rounding.least_norm)
longest_product = inlined(rounding.longest_product)
norm_bound = inlined(rounding.norm_bound)
residual_bound = inlined(rounding.residual_bound)
reach = inlined(rounding.reach)
radius_factor = inlined(rounding.radius_factor)
threshold_margin = inlined(rounding.threshold_margin)
dot_slope = inlined(rounding.dot_slope)
dot_intercept = inlined(rounding.dot_intercept)
dot32_slope = inlined(rounding.dot32_slope)
dot32_intercept = inlined(rounding.dot32_intercept)
pair_margin = inlined(rounding.pair_margin)
exact_below = inlined(rounding.exact_below)

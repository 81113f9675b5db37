"""The bounds of `halfspace.model.rounding`, compiled."""

from halfspace.cpu.runtime.jit import stage
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

axes_error = stage(rounding.axes_error)
axes_rest = stage(rounding.axes_rest)
least_norm = stage(rounding.least_norm)
longest_product = stage(rounding.longest_product)
norm_bound = stage(rounding.norm_bound)
residual_bound = stage(rounding.residual_bound)
reach = stage(rounding.reach)
radius_factor = stage(rounding.radius_factor)
threshold_margin = stage(rounding.threshold_margin)
dot_slope = stage(rounding.dot_slope)
dot_intercept = stage(rounding.dot_intercept)
dot32_slope = stage(rounding.dot32_slope)
dot32_intercept = stage(rounding.dot32_intercept)
pair_margin = stage(rounding.pair_margin)
exact_below = stage(rounding.exact_below)

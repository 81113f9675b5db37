"""The bounds of `halfspace.model.rounding`, compiled."""

from halfspace.cpu.runtime.jit import inlined
from halfspace.model import rounding

__all__ = [
    "axes_error",
    "axes_left",
    "axes_rest",
    "ball_doubt",
    "cosine_spread",
    "distance32_intercept",
    "distance32_slope",
    "distance_exact_below",
    "distance_intercept",
    "distance_slope",
    "dot32_intercept",
    "dot32_slope",
    "dot_intercept",
    "dot_slope",
    "exact_below",
    "half_square",
    "least_cosine_slope",
    "least_norm",
    "longest_product",
    "most_cosine_slope",
    "norm_bound",
    "pair_margin",
    "prefix_margin",
    "radius_factor",
    "reach",
    "residual_bound",
    "square_margin",
    "sum32_beyond",
    "sum32_within",
    "threshold_margin",
]

axes_error = inlined(rounding.axes_error)
axes_left = inlined(rounding.axes_left)
axes_rest = inlined(rounding.axes_rest)
ball_doubt = inlined(rounding.ball_doubt)
half_square = inlined(rounding.half_square)
square_margin = inlined(rounding.square_margin)
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
prefix_margin = inlined(rounding.prefix_margin)
exact_below = inlined(rounding.exact_below)
cosine_spread = inlined(rounding.cosine_spread)
distance32_intercept = inlined(rounding.distance32_intercept)
distance32_slope = inlined(rounding.distance32_slope)
distance_exact_below = inlined(rounding.distance_exact_below)
distance_intercept = inlined(rounding.distance_intercept)
distance_slope = inlined(rounding.distance_slope)
least_cosine_slope = inlined(rounding.least_cosine_slope)
most_cosine_slope = inlined(rounding.most_cosine_slope)
sum32_beyond = inlined(rounding.sum32_beyond)
sum32_within = inlined(rounding.sum32_within)

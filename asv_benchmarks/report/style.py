"""How all pictures look: backgrounds are transparent and text is grey, to be read on light and on dark pages."""

GREY = "#808080"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "halfspace",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.labelcolor": GREY,
    "lines.markersize": 4,
    "lines.linewidth": 1.4,
} | dict.fromkeys(
    ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color", "grid.color"),
    GREY,
)

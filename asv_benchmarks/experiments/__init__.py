"""Scripts that answer one question each, run from the root: `python -m asv_benchmarks.experiments.paper --help`."""

"""Benchmarks of halfspace range search, a file for each topic; `asv` runs them.

Times of one engine are `time_` benchmarks, each in a process of its own. What compares engines (ratios, recall, wrong
answers) is measured in `setup_cache`: all of them in one process, by alternating turns, against exact arithmetic; the
`track_` benchmarks of such a class read the figures off. `HALFSPACE_BENCH_SMALL=1` shrinks all data, to see that it
runs; `HALFSPACE_BENCH_THREADS` is the number of threads of everyone (2).
"""

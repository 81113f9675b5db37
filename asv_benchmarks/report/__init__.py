"""From what was measured to the documents: figures kept in `asv_benchmarks/results`, tables and pictures in `docs`."""

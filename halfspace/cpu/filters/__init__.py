"""The filters, and the chunk-wise tests of each."""

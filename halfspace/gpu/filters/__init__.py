"""The filters: what is derived for each, and the kernels that test it."""

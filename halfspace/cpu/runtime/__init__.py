"""How kernels are compiled, kept, and run by threads."""

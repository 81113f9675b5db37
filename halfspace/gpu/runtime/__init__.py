"""How kernels are compiled and launched, and what they are told."""

"""How kernels are compiled and launched, and the records that they take."""

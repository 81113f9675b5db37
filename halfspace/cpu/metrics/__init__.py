"""How vectors are read for each metric: the float32 scan, verification in float64, and what decides where that cannot.

Each module has functions of the same names, of which `halfspace.cpu.stored` compiles what reads vectors.
"""

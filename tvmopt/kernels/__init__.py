"""Parametric TIR kernels, one generator a file; the ISA comes from the target."""

"""Passes that set weights to zero where kernels then leave them out."""

"""Sites are matched and given kernels."""

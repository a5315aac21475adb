"""The demo's model and data, made by ``benchmarks/train/fashion_mnist.py``."""

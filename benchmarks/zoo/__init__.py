"""Trained models from package registries, and what they say about the compiler."""

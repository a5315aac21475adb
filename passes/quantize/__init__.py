"""Passes that store weights and activations in few bits."""

"""Passes that put products of thin layers in the place of wide ones."""

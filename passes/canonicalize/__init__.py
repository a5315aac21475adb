"""Passes that bring an imported graph into the one form that lowering expects."""

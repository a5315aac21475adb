"""A model file becomes an IRModule."""

"""Measurements on the public API: they print a table, write JSON, and assert nothing."""

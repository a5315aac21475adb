"""Schedules for the TIR that no kernel generator claims."""

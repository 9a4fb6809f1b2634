"""Formats and names of others' weights."""

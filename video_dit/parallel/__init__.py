"""Meshes, the partition table, and attention over packed rows."""

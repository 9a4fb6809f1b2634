"""The diffusion transformer over packed rows."""

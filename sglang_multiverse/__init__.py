"""Natively parallel generation: one definition of structure, positions and visibility, shared by
data, training and serving."""

__version__ = "0.1.0"

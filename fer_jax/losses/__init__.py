"""Losses as pure functions of arrays. They import jax and numpy, and nothing else from this package."""

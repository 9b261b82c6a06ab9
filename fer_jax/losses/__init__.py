"""Losses as pure maths: they import jax and nothing of ours."""

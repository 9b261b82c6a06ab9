"""Tests of fer_jax.data.builders.fer2013."""

"""Tests of fer_jax.data.builders."""

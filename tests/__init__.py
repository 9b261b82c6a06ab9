"""Tests mirror fer_jax/: tests/a/b_test.py holds the tests of fer_jax/a/b.py."""

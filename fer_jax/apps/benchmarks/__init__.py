"""Benchmarks, one per file, run by `fer_jax.apps.bench`. Each compares its candidates inside one process."""

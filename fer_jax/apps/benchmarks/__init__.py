"""One file a benchmark; `fer_jax.apps.bench` runs them. Each compares its candidates inside one process."""

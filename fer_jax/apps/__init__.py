"""Command-line programs on top of the training code, each `python -m fer_jax.apps.<name>`."""

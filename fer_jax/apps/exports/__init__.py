"""Forms of a trained network that need neither this project nor, in one case, Python."""

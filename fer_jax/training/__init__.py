"""Training: from a config to checkpoints, results and predictions on disk."""

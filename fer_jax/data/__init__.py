"""From a dataset on disk to batches: builders, arrays, splits, pipeline, augmentation."""

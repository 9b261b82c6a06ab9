"""From a dataset on disk to batches: dataset builders, arrays, splits, batch pipeline and augmentation."""

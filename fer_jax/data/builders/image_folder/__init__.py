"""A user's own images in folders, one folder for each class."""

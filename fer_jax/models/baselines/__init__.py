"""Baseline networks, one file per paper. The defaults suit faces of 48 pixels."""

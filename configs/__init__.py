"""One file a paper; `configs/FILE.py:VARIANT` chooses a variant. Sweeps stand in configs/sweeps."""

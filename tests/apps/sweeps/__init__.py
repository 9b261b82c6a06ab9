"""Tests of the parts of the sweeps' launcher."""

"""Fault injection into real runs: once per fault as tests, repeatedly with `python -m tests.faults --times=20`."""

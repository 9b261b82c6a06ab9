"""Faults put into real runs: `python -m tests.faults --times=20`; as ordinary tests each is put in once."""

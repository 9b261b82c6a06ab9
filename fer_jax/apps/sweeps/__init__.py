"""The parts of `launch/sweep.py`: plan its runs, execute them, gather their results, show them."""

"""The parts of `launch/sweep.py`: planning the runs, executing them, gathering their results, and the page."""

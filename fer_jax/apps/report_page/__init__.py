"""The parts of the report page of a training run: what it reads, how it draws, what it says."""

"""The environment of a program: devices, processes, compilation, signals, locks, errors and provenance."""

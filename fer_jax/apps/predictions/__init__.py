"""The parts of the program that predicts: what it reads, how it goes through it, what it writes."""

"""A simulated cohort, to try the program offline."""

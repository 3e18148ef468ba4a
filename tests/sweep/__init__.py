"""A sweep of bad input over every entry point: `python -m tests.sweep`."""

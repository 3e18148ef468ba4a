"""The loop: fit from a step to the end, with its callbacks, checkpoints, workers and optimizers."""

"""A training run: its settings filled in, streams, losses, folder, records, and the trained run."""

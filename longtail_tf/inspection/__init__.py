"""What inspect finds before any training: the tail's numbers, charts, faulty images."""

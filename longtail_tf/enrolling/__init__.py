"""Adding, replacing, removing and renaming classes without training."""

"""The HTML report of a run and the comparison of runs: one self-contained file each."""

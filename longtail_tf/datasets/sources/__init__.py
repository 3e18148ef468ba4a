"""One module a kind of data set: each reads its files into a `Source`."""

"""From embeddings to classes: the fitted recogniser and the rules over it."""

"""The networks: backbones and their weights, the embedder, the two-stream model."""

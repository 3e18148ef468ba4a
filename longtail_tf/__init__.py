"""Image recognition when most classes have few images."""

__version__ = "0.1.0"

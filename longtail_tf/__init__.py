"""Image recognition when most classes have few images."""

from __future__ import annotations

__version__ = "0.1.0"

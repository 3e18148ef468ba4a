"""Data sets as an index: labels in memory, images read by row from wherever they lie."""

from __future__ import annotations

from longtail_tf.datasets.index import DatasetIndex
from longtail_tf.datasets.load import load_index
from longtail_tf.datasets.split import Split
from longtail_tf.datasets.string_table import StringTable

__all__ = ["DatasetIndex", "Split", "StringTable", "load_index"]

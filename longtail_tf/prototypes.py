"""Class prototypes under the name that users import; they are made in `recognition.prototypes`."""

from __future__ import annotations

from longtail_tf.recognition.prototypes import class_prototypes

__all__ = ["class_prototypes"]

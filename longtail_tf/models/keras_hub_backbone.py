"""Backbones of keras-hub (Python 3.12 on, an optional extra): `keras_hub:PRESET`.

PRESET is a name that keras-hub fetches, or a folder that `save_to_preset` wrote.
"""

from __future__ import annotations

import tensorflow as tf

from longtail_tf.compat import quiet_imports
from longtail_tf.errors import UserError
from longtail_tf.settings.backbones import HUB

layers = tf.keras.layers

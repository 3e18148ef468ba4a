"""Which rows are in which batch, as pure functions of (seed, step)."""

from __future__ import annotations

from longtail_tf.sampling.balanced_sampler import BalancedSampler
from longtail_tf.sampling.checks import Shard
from longtail_tf.sampling.samplers import PKSampler, RandomSampler

__all__ = ["BalancedSampler", "PKSampler", "RandomSampler", "Shard"]

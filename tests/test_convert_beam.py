"""The Beam pipeline writes what the plain conversion writes; skipped where Beam is missing."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest

from longtail_tf import convert, convert_beam
from longtail_tf.convert import ConvertConfig
from longtail_tf.convert_beam import BeamConvertConfig, write_shard
from longtail_tf.datasets import load_index
from longtail_tf.datasets.conversion.plan import ShardWriter
from longtail_tf.errors import UserError


@pytest.fixture
def settings(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3)).astype(np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(60) % 3)
    return {"data": f"npz:{tmp_path / 'x.npz'}", "shard_megabytes": 0.003, "workers": 1}


def shard_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.tfrecord")}


def test_pipeline_writes_the_same_shards(settings, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("apache_beam")
        config = BeamConvertConfig(
            out=str(tmp_path / "beam"), pipeline_options=("--runner=DirectRunner",), **settings
        )
        convert_beam.run(config)
    convert.run(ConvertConfig(out=str(tmp_path / "plain"), **settings))
    assert len(shard_bytes(tmp_path / "beam")) > 3
    assert shard_bytes(tmp_path / "beam") == shard_bytes(tmp_path / "plain")
    # Either goes on with what the other began.
    assert convert.run(ConvertConfig(out=str(tmp_path / "beam"), **settings)).already_there > 3


def test_every_shard_alone_makes_the_same_conversion(settings, tmp_path, monkeypatch):
    """What Beam's workers run, without Beam: any order, shards given twice."""
    convert.run(ConvertConfig(out=str(tmp_path / "plain"), **settings))
    config = BeamConvertConfig(out=str(tmp_path / "out"), **settings)
    (tmp_path / "out").mkdir()
    digest = load_index(config.data).digest
    number = len(shard_bytes(tmp_path / "plain"))
    names = [write_shard(i, config, digest) for i in reversed(range(number))]
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "plain")
    monkeypatch.setattr(ShardWriter, "write", None)  # writing again would fail
    assert [write_shard(i, config, digest) for i in reversed(range(number))] == names


def test_worker_that_sees_other_data(settings, tmp_path):
    with pytest.raises(UserError, match="a worker finds other data under npz:"):
        write_shard(0, BeamConvertConfig(out=str(tmp_path), **settings), "0" * 64)


def test_without_beam(settings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"needs Apache Beam.*longtail_tf\[beam\]"):
        convert_beam.run(BeamConvertConfig(out=str(tmp_path / "out"), **settings))
    assert not (tmp_path / "out").exists()

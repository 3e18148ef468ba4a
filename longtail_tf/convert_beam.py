"""The conversion of `longtail_tf.convert` as an Apache Beam pipeline, for many machines.

    pip install "longtail_tf[beam]"
    python -m longtail_tf.convert_beam --data=folder:/shared/photos --out=/shared/shards \\
        -- --runner=FlinkRunner --flink_master=...

What follows `--` goes to Beam. Without it the pipeline runs on this machine. The data and --out
must lie where every worker sees them under the same path. The shards are those of
`longtail_tf.convert` byte for byte, and either can go on with what the other began.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

from longtail_tf.convert import ConvertConfig, conversion_manifest, prepare, shard_writer
from longtail_tf.datasets.conversion.folder import MANIFEST, claimed_folder
from longtail_tf.errors import UserError
from longtail_tf.files import write_json
from longtail_tf.settings import cli, setting


@dataclasses.dataclass(frozen=True)
class BeamConvertConfig(ConvertConfig):
    """Settings of `python -m longtail_tf.convert_beam`; --workers means nothing here."""

    pipeline_options: tuple[str, ...] = setting((), "Options for Beam, after `--`.")


def run(config: BeamConvertConfig) -> pathlib.Path:
    """Runs the pipeline until all shards are there; returns their folder."""
    beam = _beam()
    index, shards = prepare(config)
    folder = pathlib.Path(config.out)
    manifest = conversion_manifest(config, index, shards)
    with claimed_folder(folder, manifest):
        options = beam.options.pipeline_options.PipelineOptions(list(config.pipeline_options))
        with beam.Pipeline(options=options) as pipeline:
            _ = (
                pipeline
                | "shards" >> beam.Create(range(len(shards)))
                | "spread" >> beam.Reshuffle()
                | "write" >> beam.Map(write_shard, config, index.digest)
            )
        write_json(folder / MANIFEST, {**manifest, "complete": True})
    print(f"{len(shards)} shards are there; train with --data=tfrecord:{config.out}")
    return folder


_prepared: dict[BeamConvertConfig, Any] = {}  # of this worker process, for all its shards


def write_shard(number: int, config: BeamConvertConfig, digest: str) -> str:
    """Writes one shard, unless it is there; returns its name. Runs in Beam's workers."""
    if config not in _prepared:
        _prepared.clear()
        _prepared[config] = prepare(config)
    index, shards = _prepared[config]
    if index.digest != digest:
        raise UserError(
            f"a worker finds other data under {config.data} than the machine that started the "
            "pipeline; give a path that all of them share"
        )
    shard = shards[number]
    if not os.path.exists(os.path.join(config.out, shard.name)):
        shard_writer(config, index).write(shard, lambda images: None)
    return shard.name


def _beam() -> Any:
    try:
        import apache_beam
    except ImportError as error:
        raise UserError(
            f"convert_beam needs Apache Beam, which cannot be imported ({error}); install it with "
            'pip install "longtail_tf[beam]", or use longtail_tf.convert on one machine'
        ) from error
    return apache_beam


def main() -> None:
    """The command line."""
    cli.launch(run, BeamConvertConfig, __doc__, positional="pipeline_options")


if __name__ == "__main__":
    main()

"""How fast each layout is read at random, converted and checked, on the same JPEG files.

    python experiments/benchmarks/bench_data.py [--images 4000] [--rounds 9]

Makes JPEGs of 250 x 250 px (about 18 KB), converts them with `longtail_tf.convert`, and reads
batches of 128 random rows through `Split.read`. Rounds of the layouts are interleaved; figures
are images per second of process CPU time, median and range, page cache warm, one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import pathlib
import tempfile
import time

import numpy as np
from PIL import Image

from longtail_tf.convert import ConvertConfig, run
from longtail_tf.datasets import Split, load_index
from longtail_tf.datasets.shards.shard_index import index_paths
from longtail_tf.datasets.shards.tfrecord_file import masked_crc32c
from longtail_tf.inspection.dataset_check import check_dataset

BATCH = 128


def write_jpegs(folder: pathlib.Path, images: int) -> None:
    rng = np.random.default_rng(0)
    for i in range(images):
        noise = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
        path = folder / f"class{i % 50:02d}" / f"{i:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).resize((250, 250), Image.Resampling.BICUBIC).save(path, quality=85)


def write_arrayrecord(source: Split, path: pathlib.Path) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    from longtail_tf.datasets.shards.tf_example import encode_example

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for begin in range(0, len(source), BATCH):
        rows = np.arange(begin, min(begin + BATCH, len(source)))
        for label, image in zip(source.labels[rows], source.read(rows)):
            writer.write(encode_example({"image/encoded": image, "image/class/label": int(label)}))
    writer.close()


def rate(work, count: int) -> float:
    start = time.process_time()
    work()
    return count / (time.process_time() - start)


def show(what: str, rates: list[float], unit: str = "images/s") -> None:
    middle = np.median(rates)
    print(f"{what:<44}{middle:12,.0f} {unit} [{min(rates):,.0f}-{max(rates):,.0f}]", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        top = pathlib.Path(name)
        write_jpegs(top / "photos", arguments.images)
        spec = f"folder:{top / 'photos'}"

        def convert(out: str, **settings) -> None:
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                run(ConvertConfig(data=spec, out=str(top / out), workers=1, **settings))

        show("convert, files as they are", [rate(lambda: convert("shards"), arguments.images)])
        resize = [rate(lambda: convert("small", resize_px=112), arguments.images)]
        show("convert --resize_px=112", resize)
        show("check", [rate(lambda: check_dataset(spec, threads=1), arguments.images)])
        for path in (top / "shards").glob("*.tfrecord"):
            pathlib.Path(index_paths(str(path))[0]).unlink()
        options = "?test_fraction=0"
        shards = f"tfrecord:{top / 'shards'}{options}"
        show(
            "index of TFRecord shards, built", [rate(lambda: load_index(shards), arguments.images)]
        )
        files = load_index(spec + options, val_per_class=0)
        mean_bytes = np.mean([len(image) for image in files.train.read(np.arange(BATCH))])
        print(f"images of {mean_bytes:,.0f} bytes on average")
        layouts = {"files": files.train, "TFRecord and offsets": load_index(shards).train}
        with contextlib.suppress(ImportError):
            write_arrayrecord(files.train, top / "x.array_record")
            record_spec = f"arrayrecord:{top / 'x.array_record'}{options}"
            layouts["ArrayRecord"] = load_index(record_spec, val_per_class=0).train
        rng = np.random.default_rng(0)
        rates: dict[str, list[float]] = {layout: [] for layout in layouts}
        for _ in range(arguments.rounds):
            for layout, split in layouts.items():
                rows = rng.integers(0, len(split), (50, BATCH))

                def read(split: Split = split, rows: np.ndarray = rows) -> None:
                    for batch in rows:
                        split.read(batch)

                rates[layout].append(rate(read, rows.size))
        for layout, measured in rates.items():
            show(f"random read, {layout}", measured)
        records = [rng.bytes(18_000) for _ in range(450)]
        mb = 450 * 18_000 / 1e6
        show(
            "CRC-32C",
            [rate(lambda: [masked_crc32c(r) for r in records], mb) for _ in range(5)],
            "MB/s",
        )


if __name__ == "__main__":
    main()

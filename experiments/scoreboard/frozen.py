"""What a sensible user writes in ten lines: scikit-learn on the frozen features of a backbone.

    python experiments/scoreboard/frozen.py --data=grocery_photos_10
    python experiments/scoreboard/frozen.py --image_size=224 --runs=runs/px224

Nothing is trained but what scikit-learn fits: balanced logistic regression, nearest class means,
and a discriminant with a shrunken covariance, on unit vectors; what each leaves open is chosen on
the validation split. The readings become rows of the scoreboard (run.py --methods=...,logreg).
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import run as board

from longtail_tf.config import Config, ResolvedConfig
from longtail_tf.datasets import DatasetIndex, Split
from longtail_tf.errors import UserError
from longtail_tf.files import write_atomically, write_csv, write_json
from longtail_tf.settings import cli, setting


@dataclasses.dataclass(frozen=True)
class FrozenConfig:
    """Settings of one call."""

    data: str = setting("grocery_photos_10", "Data sets, comma-separated, as run.py takes them.")
    image_size: int = setting(0, "Side of the images; 0: as the data set's flags say.", unit="px")
    flags: str = setting("", "Further flags of the network, separated by blanks.")
    runs: str = setting("runs/scoreboard", "Where the run folders go.")


class Features(NamedTuple):
    """Unit feature vectors of the images of a split."""

    vectors: np.ndarray  # float32 [N, F]
    labels: np.ndarray  # int [N]


def run(config: FrozenConfig) -> None:
    """Reads the frozen features of each data set, once.

    Raises:
      UserError: a data set without validation or test images.
    """
    for data in config.data.split(","):
        if all((_folder(config, data, name) / "evaluation.json").exists() for name in READINGS):
            continue
        read(config, data)


def read(config: FrozenConfig, data: str) -> None:
    """Writes a run folder for each reading of one data set."""
    from longtail_tf.metrics import balanced_accuracy, shot_accuracy, shot_bands
    from longtail_tf.runs.folder import provenance
    from longtail_tf.runs.resolve import index_of, resolve_for
    from longtail_tf.training import loop

    begun_at = time.process_time()
    flags = [*board.data_flags(data), "--method=ncm", "--train_from=none", "--threads=1"]
    flags += [f"--image_size={config.image_size}"] * bool(config.image_size)
    given = cli.parse(Config, [*flags, *config.flags.split(), "--run_dir=x"])
    loop.prepare_tensorflow(threads=given.threads)
    index = index_of(given)
    settings = resolve_for(given, index)
    if index.val is None or index.test is None:
        raise UserError(f"--data={data} has no validation or no test images to read by.")
    train, val, test = features(settings, index, [index.train, index.val, index.test])
    seconds = time.process_time() - begun_at
    bands = shot_bands.band_names(index.class_counts)
    for name, fit in READINGS.items():
        begun_at = time.process_time()
        chosen, predict = fit(train, val)
        found = predict(test.vectors)
        folder = _folder(config, data, name)
        folder.mkdir(parents=True, exist_ok=True)
        accuracies = shot_accuracy(test.labels, found, index.class_counts)
        balanced = balanced_accuracy(test.labels, found)
        took = seconds + time.process_time() - begun_at
        print(f"{data} {name}: {100 * balanced:.1f} % balanced, {chosen}, {took:.0f} CPU s")
        write_atomically(folder / "cpu_seconds.json", json.dumps(round(took, 1)))
        write_csv(folder / "classes.csv", ("id", "band"), enumerate(bands))
        sizes = {"classification_loss": name, "embedding_dim": train.vectors.shape[1]}
        write_json(
            folder / "config.json",
            {"num_head": index.num_classes, "settings": sizes, "chosen_on_validation": chosen},
        )
        content = {
            "rules": {name: {**accuracies, "balanced": balanced}},
            "inference_rule": name,
            "images_seen": 0,
            "provenance": provenance(data_digest=index.digest, seed=0),
        }
        write_json(folder / "evaluation.json", content)


def features(
    config: ResolvedConfig, index: DatasetIndex, splits: Sequence[Split]
) -> list[Features]:
    """The features of a backbone that nothing was trained of, as unit vectors."""
    import tensorflow as tf

    from longtail_tf.images.pipeline import evaluation_batches
    from longtail_tf.metrics.array_checks import unit_rows
    from longtail_tf.runs.trained_run import build_embedder

    network = build_embedder(
        config, channels=index.channels, precision="float32", weights=config.weights
    )
    through = tf.function(lambda images: network(tf.cast(images, tf.float32), training=False))
    found = []
    for split in splits:
        batches = evaluation_batches(
            split, image_size=config.image_size, channels=index.channels, batch_size=64
        )
        parts = [(through(images).numpy(), np.asarray(labels)) for images, labels in batches]
        vectors, labels = (np.concatenate(part) for part in zip(*parts))
        found.append(Features(unit_rows(vectors), labels))
    return found


Predict = Callable[[np.ndarray], np.ndarray]


def logreg(train: Features, val: Features) -> tuple[str, Predict]:
    """Balanced logistic regression, its regularisation by validation."""
    from sklearn.linear_model import LogisticRegression

    def fitted(strength: float) -> Any:
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=200)
        return model.fit(train.vectors, train.labels)

    return _best_on(val, {f"C={strength:g}": fitted(strength) for strength in (1, 10, 100, 1000)})


def class_means(train: Features, val: Features) -> tuple[str, Predict]:
    """The class whose mean is nearest."""
    from sklearn.neighbors import NearestCentroid

    return "nothing to choose", NearestCentroid().fit(train.vectors, train.labels).predict


def shrunk_lda(train: Features, val: Features) -> tuple[str, Predict]:
    """Linear discriminant, every class as likely, the shrinkage of its covariance by validation."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    classes = len(np.unique(train.labels))

    def fitted(shrinkage: float) -> Any:
        model = LinearDiscriminantAnalysis(
            solver="lsqr", shrinkage=shrinkage, priors=np.full(classes, 1 / classes)
        )
        return model.fit(train.vectors, train.labels)

    return _best_on(
        val, {f"shrinkage={share}": fitted(share) for share in (0.1, 0.3, 0.5, 0.7, 0.9)}
    )


READINGS: dict[str, Callable[[Features, Features], tuple[str, Predict]]] = {
    "logreg": logreg,
    "class_means": class_means,
    "shrunk_lda": shrunk_lda,
}


def _best_on(val: Features, models: dict[str, Any]) -> tuple[str, Predict]:
    """The name of the model with the best balanced accuracy, and how it predicts."""
    from longtail_tf.metrics import balanced_accuracy

    found = {
        name: balanced_accuracy(val.labels, model.predict(val.vectors))
        for name, model in models.items()
    }
    best = max(found, key=found.__getitem__)
    return best, models[best].predict


def _folder(config: FrozenConfig, data: str, name: str) -> pathlib.Path:
    return pathlib.Path(config.runs) / board.name_of(data) / name / "0"


if __name__ == "__main__":
    cli.launch(run, FrozenConfig, __doc__)

"""A complete run folder without any training: the files of the contract, with plausible numbers."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import pathlib
import re
import types

import numpy as np
from PIL import Image

DIGEST = "3f" * 32
RULES = {"gated": 0.0, "ncm": -0.02, "knn": -0.05, "linear": 0.012, "head_only": None}


VOID = ("meta", "img", "br")


class Outline(html.parser.HTMLParser):
    """Reads a page strictly: every element closed in order; ids, texts and attributes kept."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.elements, self.text = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)

    @property
    def words(self):
        return re.sub(r"\s+", " ", "".join(self.text))


class FakeSplit:
    """Test images drawn from the class: a few strokes a class, noise an image."""

    def __init__(self, labels, *, size=28, encoded=False):
        self.labels, self.size, self.encoded = labels, size, encoded

    def __len__(self):
        return len(self.labels)

    def read(self, rows):
        images = np.stack([self._draw(int(row)) for row in rows])
        if not self.encoded:
            return images
        out = np.empty(len(images), object)
        for i, image in enumerate(images):
            data = io.BytesIO()
            Image.fromarray(np.repeat(image, 3, axis=2)).resize((160, 120)).save(data, "JPEG")
            out[i] = data.getvalue()
        return out

    def _draw(self, row):
        label = int(self.labels[row])
        of_class = np.random.default_rng([label, 1])
        of_image = np.random.default_rng([row, 2])
        grid = np.stack(np.meshgrid(*[np.linspace(0, 1, self.size)] * 2), axis=-1)
        ink = np.zeros((self.size, self.size))
        for _ in range(3):
            points = of_class.uniform(0.15, 0.85, (3, 2)) + of_image.normal(0, 0.03, (3, 2))
            for t in np.linspace(0, 1, 25):
                at = (1 - t) ** 2 * points[0] + 2 * t * (1 - t) * points[1] + t**2 * points[2]
                ink = np.maximum(ink, np.exp(-((grid - at) ** 2).sum(-1) / 0.0022))
        return (255 * (1 - ink)).astype(np.uint8)[..., None]


def long_tailed(num_classes, largest=600):
    return np.maximum(
        1, (largest * (1 / largest) ** (np.arange(num_classes) / (num_classes - 1))).astype(int)
    )


def band_of(count):
    return "many" if count > 100 else "few" if count < 20 else "medium"


def make_run(
    folder,
    *,
    num_classes=60,
    test_per_class=10,
    seed=0,
    skill=1.0,
    names=None,
    digest=DIGEST,
    encoded=False,
    config=None,
    missing=(),
):
    """Writes a run folder; returns its index. `missing` names files that are left out."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, 7])
    world = np.random.default_rng(5)
    counts = long_tailed(num_classes)
    bands = [band_of(count) for count in counts]
    num_head = num_classes // 5
    names = list(names or [f"{_FAMILIES[i % len(_FAMILIES)]} {i}" for i in range(num_classes)])
    families = world.normal(size=(num_classes, 32))
    prototypes = families + 1.3 * families[(np.arange(num_classes) * 7 + 3) % num_classes]
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    labels = np.repeat(np.arange(num_classes), test_per_class)
    world_noise = world.normal(size=(len(labels), 32))
    noise = (0.14 + 0.16 / np.sqrt(counts)[labels]) / skill
    embeddings = prototypes[labels] + noise[:, None] * (
        world_noise + 0.35 * rng.normal(size=world_noise.shape)
    )
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = embeddings @ prototypes.T
    predictions = cosines.argmax(axis=1)
    logits = 18 * cosines
    confidences = 1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)

    settings = {
        "data": "omniglot_lt", "inference_rule": "gated", "steps": 20000, "seed": seed,
        "head_ratio": 0.2, "classification_loss": "cross_entropy",
        "metric_loss": "triplet_semihard", "margin": 0.2, "backbone": "resnet20",
        "embedding_dim": 32, "val_per_class": 20, "split_seed": 0, "exclude": "",
        "run_dir": str(folder), "resume": False, **(config or {}),
    }  # fmt: skip
    provenance = {
        "longtail_tf": "0.1.0", "commit": "0123abc", "python": "3.11.7",
        "packages": {"tensorflow": "2.15.1", "keras": "2.15.0", "numpy": "1.26.4"},
        "data_digest": digest, "seed": seed,
    }  # fmt: skip
    accuracy = _accuracies(labels, predictions, np.array(bands))
    bins = np.minimum((confidences * 15).astype(int), 14)
    gaps = np.bincount(bins, (labels == predictions) - confidences, minlength=15)
    ece = float(np.abs(gaps).sum() / len(labels))
    rules = {}
    for rule, offset in RULES.items():
        if offset is None:
            shown = {"all": 0.2 * accuracy["all"] + 0.02, "many": accuracy["many"],
                     "medium": 0.02, "few": 0.0}  # fmt: skip
        else:
            shown = {k: None if v is None else float(np.clip(v + offset, 0, 1))
                     for k, v in accuracy.items()}  # fmt: skip
        rules[rule] = {
            **shown, "balanced": shown["all"], "macro_f1": shown["all"] - 0.01,
            "top5": min(1.0, shown["all"] + 0.2), "worst_class_recall": 0.1, "ece": ece,
            "head_to_tail": 0.041, "tail_to_head": 0.087,
            "intervals": {k: None if v is None else [max(0, v - 0.03), min(1, v + 0.03)]
                          for k, v in shown.items()},
        }  # fmt: skip

    def write(name, text):
        if name not in missing:
            (folder / name).write_text(text)

    write("config.json", json.dumps({"format_version": 1, "settings": settings,
                                     "provenance": provenance}))  # fmt: skip
    flags = [f"--{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in settings.items()]
    write("config.flags", "\n".join(["# a comment", *flags, ""]))
    write("head_set.json", json.dumps({"rule": "--head_ratio=0.2", "num_head": num_head}))
    write("evaluation.json", json.dumps({
        "rules": rules, "step": 20000, "split": "test", "provenance": provenance,
        "retrieval": {
            "recall_at_1": {"all": 0.71, "many": 0.83, "medium": 0.78, "few": 0.61},
            "map_at_r": {"all": 0.44, "many": 0.55, "medium": 0.5, "few": 0.33},
            "queries": len(labels), "tar_at_far": {"0.01": 0.62, "0.001": 0.41},
        },
        "unknowns": {"auroc": 0.913, "fpr_at_95_tpr": 0.31, "threshold": 0.412,
                     "false_accept_rate": 0.05, "false_reject_rate": 0.12},
    }))  # fmt: skip
    if "metrics.jsonl" not in missing:
        _write_metrics(folder / "metrics.jsonl", rng, accuracy)
    if "classes.csv" not in missing:
        _write_csv(folder / "classes.csv", ["id", "name", "train_count", "head", "band"], [
            [i, names[i], counts[i], int(i < num_head), bands[i]] for i in range(num_classes)
        ])  # fmt: skip
    if "per_class.csv" not in missing:
        rows = []
        for i in range(num_classes):
            mine = predictions[labels == i]
            wrong = mine[mine != i]
            rows.append([
                i, names[i], counts[i], bands[i], int(i < num_head), len(mine),
                f"{(mine == i).mean():.4f}",
                f"{(labels[predictions == i] == i).mean():.4f}" if (predictions == i).any() else "",
                names[np.bincount(wrong).argmax()] if len(wrong) else "",
            ])  # fmt: skip
        header = "id,name,train_count,band,head,test_images,recall,precision,most_confused_with"
        _write_csv(folder / "per_class.csv", header.split(","), rows)
    rows = np.arange(len(labels))
    if "embeddings.npz" not in missing:
        np.savez(folder / "embeddings.npz", embeddings=embeddings.astype(np.float32),
                 labels=labels.astype(np.int32), rows=rows, predictions=predictions,
                 confidences=confidences.astype(np.float32))  # fmt: skip
    if "prototypes.npz" not in missing:
        np.savez(folder / "prototypes.npz", prototypes=prototypes.astype(np.float32))
    return types.SimpleNamespace(
        name="omniglot_lt", digest=digest, test=FakeSplit(labels, encoded=encoded)
    )


_FAMILIES = ("Oak leaf", "Maple", "Willow", "Birch", "Hazel", "Rowan", "Elder", "Alder", "Larch")


def _accuracies(labels, predictions, bands):
    right = labels == predictions
    recall = np.array([right[labels == i].mean() for i in range(len(bands))])
    found = {"all": float(right.mean())}
    for band in ("many", "medium", "few"):
        members = bands == band
        found[band] = float(recall[members].mean()) if members.any() else None
    return found


def _write_metrics(path, rng, accuracy):
    with open(path, "w") as file:
        for step in range(50, 20001, 50):
            t = step / 20000
            record = {
                "step": step, "head_loss": 3.2 * np.exp(-5 * t) + 0.25 + 0.05 * rng.random(),
                "whole_loss": 0.2 * np.exp(-3 * t) + 0.03 + 0.01 * rng.random(),
                "head_accuracy": 0.93 - 0.85 * np.exp(-5 * t) + 0.03 * rng.random(),
                "active_share": 0.7 * np.exp(-3 * t) + 0.1, "positive_distance": 0.9 - 0.4 * t,
                "negative_distance": 1.1 + 0.25 * t,
                "learning_rate": 0.1 * min(1, step / 1000) * (1 + np.cos(np.pi * t)) / 2,
                "images_per_s": 950 + 40 * rng.random(),
            }  # fmt: skip
            file.write(json.dumps(record) + "\n")
            if step % 1000 == 0:
                val = {k: None if v is None else v * (1 - np.exp(-4 * t))
                       for k, v in accuracy.items()}  # fmt: skip
                file.write(json.dumps({"step": step, "val": {"gated": val}}) + "\n")
        file.write('{"step": 20050, "head_lo')  # cut by a kill


def _write_csv(path, header, rows):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)

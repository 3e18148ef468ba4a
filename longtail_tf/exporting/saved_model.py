"""Writes one version of the serving SavedModel, checks it, publishes it."""

from __future__ import annotations

import json
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from longtail_tf.compat.quiet import quiet_saving
from longtail_tf.errors import UserError
from longtail_tf.exporting import gates, publish, warmup
from longtail_tf.exporting.rule_head import RuleHead
from longtail_tf.exporting.serving_module import Limits, ServingModule, labels_text

CLASSIFY_METHOD = "tensorflow/serving/classify"
INFO_FILE = "assets.extra/longtail_tf.json"
NO_LIMITS = Limits()


def build_serving_module(
    *,
    model: Any,
    recognizer: Any,
    class_names: Sequence[str],
    image_size: int,
    channels: int,
    rule: str = "gated",
    top_k: int = 5,
    unknown_threshold: float | None = None,
    limits: Limits = NO_LIMITS,
    labels_path: str,
) -> ServingModule:
    """Puts a trained network and a fitted recognizer behind the signatures.

    Args:
      model: has `embed_with_logits(images, training) -> (embedding [N, D], logits [N, H] | None)`.
      recognizer: a fitted `recognition.fit.Recognizer`.
      class_names: name of each class id, C of them.
      image_size: side S of the network's input, px.
      channels: 1 or 3.
      rule: the inference rule (`rule_head.GRAPH_RULES`).
      top_k: candidates k per image; at most C.
      unknown_threshold: best prototype scores below it are "unknown"; None: every image is
        given a class.
      limits: what a request may hold.
      labels_path: where the labels file is written; saving copies it into the export.

    Raises:
      UserError: the rule cannot be exported, a class name cannot stand in a labels file, or top_k
        is below 1.
    """
    if top_k < 1:
        raise UserError(f"--k_top={top_k}: at least one candidate per image is named.")
    if recognizer.num_classes != len(class_names):
        raise UserError(
            f"The recognizer scores {recognizer.num_classes} classes and {len(class_names)} class "
            "names were given: both must come from the same run folder."
        )
    pathlib.Path(labels_path).write_text(labels_text(class_names), encoding="utf-8")
    return ServingModule(
        model=model,
        rule_head=RuleHead(recognizer, rule=rule),
        labels_path=labels_path,
        image_size=image_size,
        channels=channels,
        top_k=top_k,
        unknown_threshold=unknown_threshold,
        limits=limits,
    )


def export_saved_model(
    *,
    export_dir: pathlib.Path,
    model_name: str,
    version: int | None,
    image_files: Sequence[bytes],
    batch_sizes: Sequence[int],
    info: Mapping[str, Any],
    before_publishing: Callable[[], None] = lambda: None,
    **module_arguments: Any,
) -> tuple[pathlib.Path, dict[str, Any]]:
    """Writes, checks and publishes one version.

    Args:
      export_dir: base folder; the version lands in `export_dir/model_name/version`.
      model_name: name clients ask for.
      version: a free version number; None takes the next.
      image_files: encoded real images the gates run on, at least two.
      batch_sizes: batch sizes that get warm-up requests.
      info: provenance, written into the version folder beside what the gates measured.
      before_publishing: called when the version is fit to be served; publishing is what comes last,
        so that an export that was killed is done again as if it had not been begun.
      **module_arguments: those of `build_serving_module`, without `labels_path`.

    Returns:
      The version folder, and what the gates measured.

    Raises:
      UserError: bad settings.
      ExportGateError: a gate failed; nothing was published.
    """
    if len(image_files) < 2:
        raise UserError(
            f"{len(image_files)} images came to check the export with: give at least 2 real ones."
        )
    with (
        tempfile.TemporaryDirectory() as scratch,
        publish.new_version(export_dir, model_name=model_name, version=version) as (hidden, final),
    ):
        module = build_serving_module(labels_path=f"{scratch}/labels.txt", **module_arguments)
        signatures = module.signatures()
        with quiet_saving():
            tf.saved_model.save(module, str(hidden), signatures=signatures)
            _set_classify_method(str(hidden))
        records = warmup.warmup_records(
            model_name=model_name,
            image_size=module.image_size,
            channels=module.channels,
            batch_sizes=batch_sizes,
        )
        warmup.write_warmup(str(hidden), records)
        measured = gates.run_gates(
            hidden,
            module=module,
            recognizer=module_arguments["recognizer"],
            image_files=image_files,
            warmup_count=len(records),
        )
        facts = {**info, "rule": module.rule_head.rule, "top_k": module.top_k,
                 "image_size": module.image_size, "channels": module.channels,
                 "unknown_threshold": module.unknown_threshold,
                 "temperature": module.rule_head.temperature, "gates": measured}  # fmt: skip
        (hidden / INFO_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        before_publishing()
    return final, measured


def _set_classify_method(folder: str) -> None:
    """TF2 marks every signature as Predict; the Classify RPC of many servers checks the mark."""
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(folder)
    updater.replace_method_name(signature_key="classify", method_name=CLASSIFY_METHOD)
    updater.save()

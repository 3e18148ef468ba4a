"""The top of a report: what was trained on what, how good it is, and what that means, in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from longtail_tf.metrics.shot_bands import BANDS, FEW_BELOW
from longtail_tf.reporting.html import Html, class_name, counted, element, percent, whole
from longtail_tf.reporting.run_data import BAND_WORDS, GROUPS, RunData, interval_of

RULE_WORDS = {
    "ncm": "the nearest class prototype",
    "knn": "the nearest training images",
    "gated": "the nearest class prototype, re-ranked by the head classifier where that is safe",
    "linear": "a balanced linear classifier refitted on the embeddings",
    "lda": "the nearest class mean, by the scatter within classes",
    "head_only": "the head classifier alone",
    "gated_lda": "the nearest class mean, by the scatter within classes; among head classes "
    "together with the head classifier",
    "head_adjusted": "the classifier of every class, its logits freed of the training shares",
    "tau_norm": "the classifier of every class, its class vectors brought to like lengths",
    "lws": "the classifier of every class, its logits rescaled class by class",
    "crt": "a classifier trained again on class-balanced batches",
}
WELL_CALIBRATED_BELOW = 0.05


def summary(run: RunData, *, data_name: str) -> list[Html]:
    """Headline, tiles and meaning."""
    over = ["Training report", run.name]
    top = [element("p", " · ".join(over), class_="over"), _headline(run)]
    top.append(element("p", _story(run, data_name), class_="lead"))
    metrics = run.rules.get(run.default_rule)
    if metrics:
        top.append(element("div", [_tile(run, metrics, group) for group in GROUPS], class_="tiles"))
        meaning = _meaning(run, metrics)
        top.append(element("ul", [element("li", text) for text in meaning], class_="means"))
    return top


def _headline(run: RunData) -> Html:
    metrics = run.rules.get(run.default_rule)
    classes = run.classes
    if not metrics or metrics.get("all") is None:
        return element("h1", "A training run that has not been evaluated yet")
    images = f"{run.image_words}s"
    if run.recognised:
        images = counted(len(run.recognised.labels), run.image_words)
    share = element("b", percent(metrics["all"]))
    texts: list[Any] = [share, f" of {images} named right"]
    if classes:
        rare = int((classes.train_counts < FEW_BELOW).sum())
        texts.append(f", across {counted(len(classes.names), 'class', 'classes')}")
        if rare:
            texts.append(f" of which {whole(rare)} had fewer than {FEW_BELOW} training images")
    return element("h1", texts)


def _story(run: RunData, data_name: str) -> list:
    streams = []
    if run.setting("classification_loss") != "none":
        of = "every class" if run.head_is_everything else "the head classes only"
        streams.append(f"a classification loss on {of}")
    if run.setting("metric_loss") != "none":
        streams.append("a metric loss on all classes")
    steps = run.evaluation.get("step") or run.setting("steps")
    story: list = ["One network was trained"]
    if steps:
        story.append(f" for {counted(int(steps), 'step')}")
    if data_name:
        story += [" on ", class_name(data_name)]
    if streams:
        story.append(f", with {' and '.join(streams)}")
    story.append(".")
    if run.classes and len(run.classes.names):
        counts = run.classes.train_counts
        story.append(
            f" The data set has {counted(int(counts.sum()), 'training image')} in "
            f"{counted(len(counts), 'class', 'classes')}: the largest has {whole(counts.max())}, "
            f"the smallest {whole(counts.min())}. "
        )
        head = int(run.classes.is_head.sum())
        if head:
            story.append(f"The {whole(head)} largest form the head set.")
    if run.rules:
        words = RULE_WORDS.get(run.default_rule)
        story += [" An image is named by ", words or class_name(run.default_rule)]
        if words:
            story += [" (rule ", element("code", run.default_rule), ")"]
        story.append(".")
    return story


def _tile(run: RunData, metrics: dict[str, Any], group: str) -> Html:
    interval = interval_of(metrics, group)
    facts = []
    if interval:
        facts.append(f"95 % interval {100 * interval[0]:.1f} to {100 * interval[1]:.1f}")
    if run.classes:
        members = len(run.classes.names)
        if group != "all":
            members = int((run.classes.bands == BANDS.index(group)).sum())
        facts.append(counted(members, "class", "classes"))
    value = percent(metrics.get(group))
    return element(
        "div",
        element("span", BAND_WORDS[group].capitalize(), class_="what"),
        element("b", value or "none", class_=None if value else "soft"),
        [element("span", fact) for fact in facts],
        class_=f"tile {group}",
    )


def _meaning(run: RunData, metrics: dict[str, Any]) -> list:
    sentences = [
        _gap(metrics),
        _head_only(run, metrics),
        _other_rules(run, metrics),
        _crossing(metrics),
        _trust(metrics),
        _never(run),
    ]
    return [sentence for sentence in sentences if sentence]


def _gap(metrics: dict[str, Any]) -> str | None:
    bands = [band for band in BANDS if metrics.get(band) is not None]
    if len(bands) < 2:
        return None
    most, least = bands[0], bands[-1]
    gap = metrics[most] - metrics[least]
    words = (
        f"Of 100 images of {least}-shot classes about {100 * metrics[least]:.0f} are named right, "
        f"of {most}-shot classes about {100 * metrics[most]:.0f}"
    )
    if gap > 0.01:
        return f"{words}: rarity costs {100 * gap:.0f} points."
    return f"{words}: rare classes are not the weak side of this model."


def _head_only(run: RunData, metrics: dict[str, Any]) -> str | None:
    alone = (run.rules.get("head_only") or {}).get("all")
    if alone is None or run.default_rule == "head_only":
        return None
    gain = metrics["all"] - alone
    if run.head_is_everything:
        words = f"The classifier alone would reach {percent(alone)}"
        return f"{words}, {_difference(gain)} than rule {run.default_rule}."
    if gain <= 0:
        return (
            f"The head classifier alone reaches {percent(alone)}, though it cannot name a class "
            "outside the head set: recognising every class does not pay on these images."
        )
    return (
        f"The head classifier alone would reach {percent(alone)}, because it cannot name a class "
        f"outside the head set; recognising every class adds {100 * gain:.1f} points."
    )


def _difference(gain: float) -> str:
    size = f"{abs(100 * gain):.1f} points"
    return f"{size} less" if gain > 0 else f"{size} more" if gain < 0 else "no less and no more"


def _other_rules(run: RunData, metrics: dict[str, Any]) -> list | None:
    others = {r: m["all"] for r, m in run.rules.items() if m.get("all") is not None}
    best = max(others, key=lambda rule: others[rule])
    lead = others[best] - metrics["all"]
    if best == run.default_rule or lead <= 0:
        return ["No other inference rule is more accurate on this test set than the default."]
    words: list = ["The rule ", element("code", best), f" is {100 * lead:.1f} points ahead of the "]
    words.append("default on this test set")
    mine, theirs = interval_of(metrics, "all"), interval_of(run.rules[best], "all")
    if mine and theirs and theirs[0] <= mine[1]:
        words.append("; the intervals overlap, so that may be chance")
    words.append(". Choose a rule on validation images, not here.")
    return words


def _crossing(metrics: dict[str, Any]) -> str | None:
    to_head, to_tail = metrics.get("tail_to_head"), metrics.get("head_to_tail")
    if to_head is None or to_tail is None:
        return None
    return (
        f"{percent(to_head)} of the tail classes' images are taken for a head class, and "
        f"{percent(to_tail)} of the head classes' images for a tail class."
    )


def _trust(metrics: dict[str, Any]) -> str | None:
    error = metrics.get("ece")
    if error is None:
        return None
    verdict = (
        "its confidence can be read as a probability"
        if error < WELL_CALIBRATED_BELOW
        else "its confidence should not be read as a probability yet"
    )
    return f"Stated confidence is {100 * error:.1f} points off on average (ECE): {verdict}."


def _never(run: RunData) -> str | None:
    if not run.per_class or not len(run.per_class.ids):
        return None
    never = int(np.sum(run.per_class.recall == 0))
    tested = len(run.per_class.ids)
    if not never:
        return f"Each of the {whole(tested)} classes with test images is recognised at least once."
    few = int(np.median(run.per_class.test_images))
    return (
        f"{whole(never)} of the {whole(tested)} classes with test images are never recognised "
        f"(the median class has {counted(few, run.image_words)}, so read single "
        "classes with care)."
    )

"""The figures that the benchmarks left in one folder, as a table of ratios and as plots."""

from __future__ import annotations

import json
import pathlib
import statistics

MARKERS = ("<!-- bench -->", "<!-- /bench -->")


def read(folder: pathlib.Path, name: str):
    """A benchmark's figures; nothing where it has not run to its end."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def ratio_cell(values: list) -> str:
    """Median [smallest, largest]."""
    return f"{statistics.median(values):.3g} [{min(values):.3g}, {max(values):.3g}]"


def table(folder: pathlib.Path) -> str:
    """Markdown: what, against what, ratio with spread, reach, whether it is reached."""
    rows = [*_losses(folder), *_torch_losses(folder), *_samplers(folder), *_classifier(folder),
            *_step(folder), *_startup(folder)]  # fmt: skip
    lines = ["| what | against | ratio [smallest, largest] | reach | |", "|---|---|---|---|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _row(what: str, against: str, cell: str, reach: str, value: float, most: bool) -> tuple:
    """One line; `most`: the reach is the largest allowed, else the smallest."""
    if not reach:
        return what, against, cell, "-", ""
    goal = float(reach.rstrip("xsMB% "))
    met = value <= goal if most else value >= goal
    return what, against, cell, ("<= " if most else ">= ") + reach, "" if met else "**missed**"


def _losses(folder):
    content = read(folder, "losses")
    for size, times in (content or {"times_ms": {}})["times_ms"].items():
        own = times["semi-hard"]
        for name, reach in (("TFA hard", ""), ("TFA semi-hard", {"512": "100x"}.get(size, ""))):
            if name in times:
                ratios = [a / b for a, b in zip(times[name], own)]
                yield _row(f"semi-hard loss, B={size}", f"{name} (times slower)",
                           ratio_cell(ratios), reach, statistics.median(ratios),
                           False)  # fmt: skip
        if "ResNet-20" in times:
            ratios = [100.0 * a / b for a, b in zip(own, times["ResNet-20"])]
            yield _row(f"semi-hard loss, B={size}", "% of a ResNet-20's step", ratio_cell(ratios),
                       "1 %", statistics.median(ratios), True)  # fmt: skip
    for size, seconds in (content or {}).get("first_s", {}).items():
        yield _row(f"semi-hard loss, B={size}", "first call, CPU seconds", ratio_cell(seconds),
                   "1 s", statistics.median(seconds), True)  # fmt: skip
    for size, taken in (content or {"memory_mb": {}})["memory_mb"].items():
        reach = {"4096": "256 MB"}.get(size, "")
        yield _row(f"semi-hard loss, B={size}", "memory of a call, MB", f"{taken:.1f}", reach,
                   taken, True)  # fmt: skip


def _torch_losses(folder):
    reaches = {256: "20x"}
    for row in read(folder, "losses_torch") or []:
        if row["loss"].startswith("ours"):
            continue
        reach = reaches.get(row["size"], "") if row["loss"] == "PML semi-hard" else ""
        cell = f"{row['ratio']:.3g} [{row['smallest']:.3g}, {row['largest']:.3g}]"
        name = row["loss"].split(" ", 1)[1]
        yield _row(f"{name} loss, B={row['size']}", f"{row['loss']} (times slower)", cell, reach,
                   row["ratio"], False)  # fmt: skip


def _samplers(folder):
    for file, peer in (("samplers_pml", "PML MPerClassSampler"),
                       ("samplers_oml", "OML BalanceSampler")):  # fmt: skip
        for row in read(folder, file) or []:
            if row["sampler"] == peer:
                reach = "1000x" if (peer[:3], row["classes"]) == ("PML", 10**6) else ""
                yield _row(f"PK batch, {row['classes']:,} classes", f"{peer} (times slower)",
                           f"{row['batch_over_this']:,.0f}", reach, row["batch_over_this"],
                           False)  # fmt: skip
    for row in read(folder, "samplers") or []:
        reach = {"PKSampler.batch": "100000", "through tf.data": "20000"}.get(row["sampler"])
        if row["classes"] == 10**6 and reach:
            cell = f"{row['batches_per_s']:,.0f} [{row['smallest']:,.0f}, {row['largest']:,.0f}]"
            yield _row(f"{row['sampler']}, 1,000,000 classes", "batches/s", cell, reach,
                       row["batches_per_s"], False)  # fmt: skip


def _classifier(folder):
    rows = read(folder, "classifier") or []
    full = {row["classes"]: row for row in rows if row["subject"] == "full"}
    for row in rows:
        if row["subject"] == "full":
            continue
        what = f"{row['subject']}, {row['classes']:,} classes"
        reach = "0.25x" if (row["subject"], row["classes"]) == ("head 20 %", 10**6) else ""
        cell = f"{row['ratio']:.3g} [{row['smallest']:.3g}, {row['largest']:.3g}]"
        yield _row(what, "full softmax, time", cell, reach, row["ratio"], True)
        if row["memory_bytes"]:
            ratio = row["memory_bytes"] / full[row["classes"]]["memory_bytes"]
            yield _row(what, "full softmax, memory", f"{ratio:.2f}", reach, ratio, True)


def _step(folder):
    for row in read(folder, "step") or []:
        if "ratio" not in row:
            continue
        reach = "1.05x" if row["subject"] in ("alternate", "joint") else ""
        cell = f"{row['ratio']:.3f} [{row['smallest_ratio']:.3f}, {row['largest_ratio']:.3f}]"
        yield _row(f"step, {row['subject']}", f"{row['peer']}, time", cell, reach, row["ratio"],
                   True)  # fmt: skip
        if row.get("memory_ratio"):
            reach = "1.03x" if reach else ""
            yield _row(f"step, {row['subject']}", f"{row['peer']}, memory",
                       f"{row['memory_ratio']:.2f}", reach, row["memory_ratio"],
                       True)  # fmt: skip


def _startup(folder):
    content = read(folder, "startup")
    for name, figures in (content or {"processes": {}})["processes"].items():
        if name.endswith("--help") or name == "mistyped flag":
            seconds = figures["cpu_s"]
            yield _row(name, "CPU seconds", ratio_cell(seconds), "1 s", statistics.median(seconds),
                       True)  # fmt: skip


def write_between_markers(path: pathlib.Path, text: str) -> bool:
    """Puts `text` between the markers of a Markdown file; false where it has none."""
    content = path.read_text() if path.exists() else ""
    if not all(marker in content for marker in MARKERS):
        return False
    before, rest = content.split(MARKERS[0], 1)
    after = rest.split(MARKERS[1], 1)[1]
    path.write_text(f"{before}{MARKERS[0]}\n\n{text}\n{MARKERS[1]}{after}")
    return True


def plots(folder: pathlib.Path, out: pathlib.Path) -> list:
    """Draws the plots there are figures for.

    Args:
      folder: of the benchmarks' json files.
      out: where the PNG files go.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn = []
    for name, title, x_label, y_label, lines in (
        ("losses", "A triplet loss and its gradient (K=4, D=128)", "slots in the batch, B",
         "CPU ms", _loss_lines(folder)),
        ("samplers", "PK sampling (P=32, K=4)", "classes", "CPU microseconds a batch",
         _sampler_lines(folder)),
        ("classifier", "One step of the classifier (batch 128, D=128)", "classes", "CPU ms",
         _classifier_lines(folder)),
    ):  # fmt: skip
        if not lines:
            continue
        figure, axes = plt.subplots(figsize=(6.4, 4.2), dpi=90)
        for label, points in lines.items():
            style = "-" if not label.startswith(("TFA", "PML", "OML")) else "--"
            axes.plot(*zip(*sorted(points)), style, marker="o", markersize=3.5, label=label)
        axes.set(xscale="log", yscale="log", title=title, xlabel=x_label, ylabel=y_label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, frameon=False)
        figure.tight_layout()
        out.mkdir(parents=True, exist_ok=True)
        figure.savefig(out / f"{name}.png", metadata={"Software": None})
        plt.close(figure)
        drawn.append(out / f"{name}.png")
    return drawn


def _loss_lines(folder) -> dict:
    lines: dict = {}
    content = read(folder, "losses") or {"times_ms": {}}
    shown = {"products": "two matrix products", "semi-hard": "ours, semi-hard",
             "TFA semi-hard": "TFA semi-hard", "TFA hard": "TFA hard"}  # fmt: skip
    for size, times in content["times_ms"].items():
        for name, label in shown.items():
            if name in times:
                lines.setdefault(label, []).append((int(size), statistics.median(times[name])))
    for row in read(folder, "losses_torch") or []:
        if not row["loss"].startswith("ours"):
            lines.setdefault(row["loss"], []).append((row["size"], row["ms"]))
    return lines


def _sampler_lines(folder) -> dict:
    lines: dict = {}
    shown = {
        "samplers": {"PKSampler.batch": "ours", "through tf.data": "ours through tf.data"},
        "samplers_pml": {"PML MPerClassSampler": "PML MPerClassSampler"},
        "samplers_oml": {"OML BalanceSampler": "OML BalanceSampler"},
    }
    for file, labels in shown.items():
        for row in read(folder, file) or []:
            if row["sampler"] in labels:
                point = (row["classes"], 1e6 / row["batches_per_s"])
                lines.setdefault(labels[row["sampler"]], []).append(point)
    return lines


def _classifier_lines(folder) -> dict:
    lines: dict = {}
    for row in read(folder, "classifier") or []:
        lines.setdefault(row["subject"], []).append((row["classes"], row["ms"]))
    return lines

from __future__ import annotations

import io
import signal

import pytest
import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.training import callbacks
from longtail_tf.training import progress as progress_lines


class FakeModel:
    """What the callbacks touch of a model."""

    def __init__(self):
        self.metrics = [tf.keras.metrics.Mean(name="head_loss")]
        self.optimizer = tf.keras.optimizers.SGD(0.25)
        self.stop_training = False

    def reset_metrics(self):
        for metric in self.metrics:
            metric.reset_state()


class FakeCheckpoints:
    def __init__(self):
        self.saves = 0

    def save(self):
        self.saves += 1


def run(callback, model, batches):
    callback.set_model(model)
    callback.on_train_begin()
    for batch in batches:
        callback.on_train_batch_end(batch)
    callback.on_train_end()


def test_training_log_gives_means_since_the_last_record():
    model, records = FakeModel(), []
    log = callbacks.TrainingLog(
        start_step=10, steps=15, every=2, images_per_step=8, sinks=[records.append]
    )
    log.set_model(model)
    log.on_train_begin()
    for batch, loss in enumerate([1.0, 3.0, 5.0, 7.0, 9.0]):
        model.metrics[0].update_state(loss)
        log.on_train_batch_end(batch)
    assert [record["step"] for record in records] == [12, 14, 15]
    assert [record["head_loss"] for record in records] == [2.0, 6.0, 9.0]
    assert all(record["learning_rate"] == 0.25 for record in records)
    assert all(record["images_per_s"] > 0 for record in records)


def test_validation_runs_when_due_but_not_at_the_last_step():
    seen = []
    validation = callbacks.Validation(
        start_step=0, steps=6, every=2, evaluate=lambda step: {"step": step}, sinks=[seen.append]
    )
    run(validation, FakeModel(), range(6))
    assert [record["step"] for record in seen] == [2, 4]


def test_checkpointing_saves_when_due_and_at_the_end():
    checkpoints = FakeCheckpoints()
    saving = callbacks.Checkpointing(start_step=0, steps=7, every=3, checkpoints=checkpoints)
    run(saving, FakeModel(), range(7))
    assert checkpoints.saves == 3 and saving.stopped is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(number):
    checkpoints, model = FakeCheckpoints(), FakeModel()
    before = signal.getsignal(number)
    saving = callbacks.Checkpointing(start_step=4, steps=20, every=100, checkpoints=checkpoints)
    saving.set_model(model)
    saving.on_train_begin()
    saving.on_train_batch_end(0)
    signal.raise_signal(number)
    assert not model.stop_training  # the step that is running ends first
    saving.on_train_batch_end(1)
    assert model.stop_training and saving.stopped == (6, number) and checkpoints.saves == 1
    saving.on_train_end()
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_stops_at_once():
    saving = callbacks.Checkpointing(
        start_step=0, steps=20, every=100, checkpoints=FakeCheckpoints()
    )
    saving.set_model(FakeModel())
    saving.on_train_begin()
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    saving.on_train_end()


RECORD = {
    "step": 500,
    "head_loss": 0.5,
    "head_accuracy": 0.9,
    "whole_loss": 0.1,
    "active_share": 0.25,
    "positive_distance": 0.5,
    "spread": 0.9,
    "images_per_s": 1234.5,
}


def test_progress_line_has_rates_and_time_left():
    out = io.StringIO()
    progress_lines.Progress(steps=1000, start_step=0, stream=out)(RECORD)
    text = out.getvalue()
    assert "step 500/1,000" in text and "head 0.500 (90 % right)" in text
    assert "whole 0.100 (25 % active)" in text and "1,234 images/s" in text and " left" in text
    assert "\x1b" not in text


def test_progress_in_a_log_is_sparse_but_shows_the_last_step():
    out = io.StringIO()
    progress = progress_lines.Progress(steps=3, start_step=0, stream=out)
    for step in (1, 2, 3):
        progress({**RECORD, "step": step})
    assert [line.split()[1] for line in out.getvalue().splitlines()] == ["1/3", "3/3"]


def test_progress_on_a_terminal_keeps_one_line():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    out = Terminal()
    progress = progress_lines.Progress(steps=2, start_step=0, stream=out)
    progress({**RECORD, "step": 1})
    progress({**RECORD, "step": 2})
    assert out.getvalue().count("\n") == 1 and out.getvalue().count("\r") == 2


def sentinel(**changes):
    return callbacks.CollapseSentinel(
        **{**dict(margin=0.2, unit_features=True, start_step=0), **changes}
    )


def test_sentinel_lets_a_healthy_run_go_on():
    sentinel()(RECORD)
    sentinel()({"step": 1, "head_loss": 2.0})


@pytest.mark.parametrize("name", ["head_loss", "whole_loss"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_sentinel_stops_at_a_loss_that_is_not_finite(name, value):
    with pytest.raises(UserError, match=f"step 500: {name} is .* lower --learning_rate"):
        sentinel()({**RECORD, name: value})


COLLAPSED = {**RECORD, "whole_loss": 0.2, "spread": 0.001}


def test_sentinel_stops_at_collapse_with_a_remedy():
    with pytest.raises(UserError, match="features have collapsed.*--warmup_steps"):
        sentinel()(COLLAPSED)


@pytest.mark.parametrize(
    "record",
    [
        {**COLLAPSED, "whole_loss": 0.1},  # the loss has left the margin
        {**COLLAPSED, "spread": 0.5},  # at the margin, but the features are apart
        {**COLLAPSED, "step": 50},  # a network that has just begun
    ],
)
def test_sentinel_is_not_hasty(record):
    sentinel()(record)


def test_sentinel_of_plain_features_measures_spread_against_distances():
    tight = {**COLLAPSED, "positive_distance": 100.0, "spread": 1.0}
    with pytest.raises(UserError, match="collapsed"):
        sentinel(unit_features=False)(tight)
    sentinel(unit_features=False)({**tight, "spread": 10.0})


def test_tensorboard_scalars_are_readable(tmp_path):
    callbacks.TensorBoardScalars(str(tmp_path))(
        {"step": 7, "head_loss": 0.5, "val": {"gated": {"few": 0.25, "many": None}}}
    )
    found = {}
    for path in tmp_path.iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                found[value.tag] = (event.step, float(tf.make_ndarray(value.tensor)))
    assert found == {"head_loss": (7, 0.5), "val/gated/few": (7, 0.25)}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (3599, "59 min 59 s"), (7325, "2 h 2 min")],
)
def test_format_seconds(seconds, text):
    assert callbacks.format_seconds(seconds) == text

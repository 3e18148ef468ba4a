"""The three backends of classify; the run folder's own numbers are in test_train."""

from __future__ import annotations

import json

import pytest

from longtail_tf import classify
from longtail_tf.classify import ClassifyConfig
from longtail_tf.errors import UserError
from longtail_tf.settings import cli


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(), "none given: name the classifier by exactly one of"),
        (dict(run_dir="a", model="b"), "--run_dir and --model given"),
        (dict(model="b", inference_rule="ncm"), "--inference_rule=ncm: an exported model has its"),
        (dict(server="h:1/m", unknown=True), "--unknown: a served model rejects unknowns if"),
        (dict(run_dir="a", images=()), "no image is given"),
        (dict(run_dir="a", k_top=0), "--k_top=0: expected 1 or more"),
        (dict(run_dir="/nowhere"), "is not a run folder"),
        (dict(model="/nowhere.tflite", images=(__file__,)), "cannot be read"),
        (dict(server="nowhere", images=(__file__,)), "HOST:PORT"),
    ],
)
def test_bad_settings_are_reported(settings, message):
    with pytest.raises(UserError, match=message):
        classify.run(ClassifyConfig(**{"images": ("x.png",), **settings}))


class FakeBackend:
    def __init__(self, answers):
        self.answers, self.images = answers, None

    def __call__(self, config, images):
        self.images = images
        return iter(self.answers[: len(images)])


ANSWER = {"classes": [{"name": "cat", "class_id": 3, "score": 0.75}], "unknown": False}


def run(monkeypatch, backend, *images, **settings):
    monkeypatch.setattr(classify, "_answers", backend)
    return classify.run(ClassifyConfig(images=images, run_dir="x", **settings))


def test_text_is_a_line_an_image(monkeypatch, tmp_path, capsys):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    unknown = {"classes": ANSWER["classes"], "unknown": True}
    run(monkeypatch, FakeBackend([ANSWER, unknown]), str(tmp_path / "a"), str(tmp_path / "b"))
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{tmp_path / 'a'}: cat 75.0 %"
    assert second == f"{tmp_path / 'b'}: unknown   (nearest: cat 75.0 %)"


def test_answers_stay_with_their_files_when_some_are_missing(monkeypatch, tmp_path, capsys):
    (tmp_path / "b").write_bytes(b"2")
    backend = FakeBackend([ANSWER])
    with pytest.raises(UserError, match="1 of 2 images could not be classified"):
        run(monkeypatch, backend, str(tmp_path / "a"), str(tmp_path / "b"), json=True)
    assert backend.images == [b"2"]
    missing, answered = json.loads(capsys.readouterr().out)
    assert missing["error"] and answered["classes"][0]["name"] == "cat"


def test_many_images_show_progress_on_a_terminal(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(classify.sys.stderr, "isatty", lambda: True, raising=False)
    paths = []
    for i in range(60):
        paths.append(str(tmp_path / f"{i}"))
        (tmp_path / f"{i}").write_bytes(b"1")
    run(monkeypatch, FakeBackend([ANSWER] * 60), *paths)
    assert "60 of 60 images" in capsys.readouterr().err


def test_positional_images_reach_the_settings():
    parsed = cli.parse(ClassifyConfig, ["--run_dir=r", "a.png", "b.png"], positional="images")
    assert parsed.images == ("a.png", "b.png")

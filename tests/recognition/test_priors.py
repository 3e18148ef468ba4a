from __future__ import annotations

import numpy as np
import pytest

from longtail_tf.errors import UserError
from longtail_tf.recognition.priors import read_test_prior

NAMES, COUNTS = ["cat", "dog", "emu"], np.array([30, 9, 1])


def read(spec):
    return read_test_prior(str(spec), class_names=NAMES, class_counts=COUNTS)


def test_all_alike():
    assert read("") is None and read("uniform") is None


def test_as_in_training():
    np.testing.assert_array_equal(read("train"), [30, 9, 1])


def test_from_a_file_the_unlisted_weigh_as_the_smallest(tmp_path):
    (tmp_path / "p.csv").write_text("name,weight\nemu,8\ndog,0.5\n")
    np.testing.assert_array_equal(read(tmp_path / "p.csv"), [0.5, 0.5, 8])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,weight\ncow,1\n", "line 2: 'cow' is no class of this run"),
        ("class,weight\ncat,1\n", "line 2: None is no class"),
        ("name,weight\ncat,1\ndog,0\n", "line 3: weight is '0'; expected a number above 0"),
        ("name,weight\ncat,many\n", "line 2: weight is 'many'"),
        ("name,weight\ncat,inf\n", "weight is 'inf'"),
        ("name\ncat\n", "weight is None"),
        ("name,weight\n", "lists no class"),
    ],
)
def test_bad_files_are_reported(tmp_path, text, message):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read(tmp_path / "p.csv")


def test_missing_file_is_reported():
    with pytest.raises(UserError, match="--test_prior=/nowhere.csv cannot be read"):
        read("/nowhere.csv")


def test_a_prior_shifts_predictions_towards_the_frequent():
    from longtail_tf.recognition.fit import Embedded, fit_recognizer

    angles = np.array([0.0, 0.3, 1.5])
    points = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    train = Embedded(points, None, np.arange(3, dtype=np.int32))
    recognizer = fit_recognizer(train, None, num_classes=3, num_head=0, seed=0, rules=("ncm",))
    between = np.array([[np.cos(0.16), np.sin(0.16)]], np.float32)
    assert recognizer.predict("ncm", between).class_ids[0, 0] == 1
    shifted = recognizer.predict("ncm", between, test_prior=np.array([1e6, 1.0, 1.0]))
    assert shifted.class_ids[0, 0] == 0

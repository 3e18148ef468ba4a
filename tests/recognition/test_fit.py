"""Fitting, evaluating, saving the `Recognizer`; a learning test on real digits."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from longtail_tf.errors import UserError
from longtail_tf.metrics import nearest_neighbours
from longtail_tf.recognition import fit, recognizer
from longtail_tf.recognition.fit import Embedded, Recognizer, evaluate_rules, fit_recognizer
from tests import rounding

# The head below leaves classes out: the rules of a head of every class do not apply.
RULES = fit.RULES[:7]  # those of any head
COUNTS = np.array([150, 120, 60, 30, 12, 6, 3, 1])
NUM_HEAD = 3


def clusters(seed, counts, spread=0.3, dimension=16):
    """Gaussian classes on a sphere; head logits from noisy copies of the head centres."""
    centres = np.random.default_rng(99).normal(size=(len(counts), dimension))
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int32)
    vectors = centres[labels] / 4 + spread * rng.normal(size=(len(labels), dimension))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    logits = (vectors @ centres[:NUM_HEAD].T * 2).astype(np.float32)
    return Embedded(vectors, logits, labels)


@pytest.fixture(scope="module")
def splits():
    return clusters(0, COUNTS), clusters(1, [10] * 8), clusters(2, [25] * 8)


@pytest.fixture(scope="module")
def fitted(splits):
    train, val, _ = splits
    return fit_recognizer(train, val, num_classes=8, num_head=NUM_HEAD, seed=0)


def test_every_rule_beats_chance_and_only_head_only_misses_the_tail(splits, fitted):
    rows = evaluate_rules(fitted, splits[2], train_counts=COUNTS, replicates=50)
    assert list(rows) == list(RULES)
    for rule in ("ncm", "knn", "gated", "linear", "lda"):
        assert rows[rule]["balanced"] > 4 / 8, rule
        assert rows[rule]["few"] > 3 / 8, rule
    assert rows["head_only"]["few"] == 0.0
    assert rows["head_only"]["tail_to_head"] == 1.0
    assert rows["head_only"]["top5"] <= NUM_HEAD / 8  # three guesses, not five


def test_rows_are_json_and_complete(splits, fitted):
    rows = evaluate_rules(fitted, splits[2], train_counts=COUNTS, replicates=50)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    wanted = "all many medium few balanced macro_f1 top5 worst_class_recall ece head_to_tail"
    for row in rows.values():
        assert set(wanted.split()) < set(row)
        for name, (low, high) in row["intervals"].items():
            assert low <= row[name] <= high or row[name] in (0.0, 1.0)


def test_top_class_of_predict_is_the_argmax_of_scores(splits, fitted, monkeypatch):
    test = splits[2]
    whole = {r: fitted.scores(r, test.embeddings, test.head_logits) for r in RULES}
    monkeypatch.setattr(recognizer, "_CHUNK_CELLS", 100)  # pieces of 12 images
    for rule, scores in whole.items():
        got = fitted.predict(rule, test.embeddings, test.head_logits, k=3)
        # Products of pieces have other last bits; lda's are divided by the smallest temperature.
        rounding.assert_top_of(got.class_ids, scores, atol=1e-5 * np.abs(scores).max())
        chance = np.exp(scores - scores.max(axis=1, keepdims=True))
        chance /= chance.sum(axis=1, keepdims=True)
        picked = np.take_along_axis(chance, got.class_ids, axis=1)
        np.testing.assert_allclose(got.probabilities, picked, atol=1e-5)


def test_ncm_scores_are_cosines_over_temperature(splits, fitted):
    train, _, test = splits
    for class_id in range(8):
        mean = train.embeddings[train.labels == class_id].astype(np.float64).mean(axis=0)
        cosine = test.embeddings @ (mean / np.linalg.norm(mean))
        got = fitted.scores("ncm", test.embeddings)[:, class_id] * fitted.temperatures["ncm"]
        np.testing.assert_allclose(got, cosine, atol=1e-5)


def test_temperature_never_changes_a_ranking_but_calibrates(splits, fitted):
    _, _, test = splits
    raw = dataclasses.replace(fitted, temperatures={})
    cold = evaluate_rules(fitted, test, train_counts=COUNTS, rules=("ncm",), replicates=0)["ncm"]
    flat = evaluate_rules(raw, test, train_counts=COUNTS, rules=("ncm",), replicates=0)["ncm"]
    assert cold["ece"] < 0.12
    assert flat["ece"] > 0.3
    assert {k: v for k, v in cold.items() if k != "ece"} == {
        k: v for k, v in flat.items() if k != "ece"
    }


def test_validation_chooses_and_its_absence_is_safe(splits):
    train, val, test = splits
    lines = []
    chosen = fit_recognizer(train, val, num_classes=8, num_head=NUM_HEAD, seed=0, log=lines.append)
    assert len(lines) == 4
    assert chosen.threshold is not None
    blind = fit_recognizer(train, None, num_classes=8, num_head=NUM_HEAD, seed=0)
    assert (blind.gate_weight, blind.neighbours, blind.threshold) == (0.0, 5, None)
    rows = evaluate_rules(blind, test, train_counts=COUNTS, replicates=0)
    assert rows["gated"]["all"] == rows["ncm"]["all"]
    empty = Embedded(val.embeddings[:0], val.head_logits[:0], val.labels[:0])
    same = fit_recognizer(train, empty, num_classes=8, num_head=NUM_HEAD, seed=0)
    assert same.temperatures == blind.temperatures


def test_no_head_logits_no_head_only(splits):
    train, val, test = (part._replace(head_logits=None) for part in splits)
    got = fit_recognizer(train, val, num_classes=8, num_head=0, seed=0)
    assert got.gate_weight == 0.0
    assert list(evaluate_rules(got, test, train_counts=COUNTS, replicates=0)) == list(RULES[:5])


def test_same_inputs_same_bits(splits, fitted):
    train, val, _ = splits
    again = fit_recognizer(train, val, num_classes=8, num_head=NUM_HEAD, seed=0)
    for field in dataclasses.fields(Recognizer):
        one, two = getattr(fitted, field.name), getattr(again, field.name)
        assert np.array_equal(one, two) if isinstance(one, np.ndarray) else one == two, field.name


def test_test_prior_shift(splits, fitted):
    """Its logarithm is added to calibrated logits; a uniform prior changes nothing."""
    test = splits[2]
    plain = fitted.scores("ncm", test.embeddings)
    np.testing.assert_allclose(
        fitted.scores("ncm", test.embeddings, test_prior=np.full(8, 0.3)),
        plain,
        atol=rounding.sums_apart(2, np.abs(plain).max() + np.log(8)),
    )
    prior = np.where(np.arange(8) == 5, 1e6, 1.0)
    assert (fitted.predict("ncm", test.embeddings, test_prior=prior).class_ids == 5).mean() > 0.9


def test_saved_and_loaded_is_the_same(splits, fitted, tmp_path):
    test = splits[2]
    fitted.save(tmp_path / "prototypes.npz")
    loaded = Recognizer.load(tmp_path / "prototypes.npz")
    for rule in RULES:
        np.testing.assert_array_equal(
            loaded.scores(rule, test.embeddings, test.head_logits),
            fitted.scores(rule, test.embeddings, test.head_logits),
        )
    assert loaded.threshold == fitted.threshold
    assert loaded.crt_kernel is None
    loaded.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "prototypes.npz").read_bytes()


def test_loading_says_what_is_wrong(fitted, tmp_path, monkeypatch):
    path = tmp_path / "prototypes.npz"
    with pytest.raises(UserError, match=r"prototypes\.npz does not exist; it is written when"):
        Recognizer.load(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="is damaged or no recognizer file"):
        Recognizer.load(path)
    np.savez(path, images=np.zeros(3))
    with pytest.raises(UserError, match="is not a recognizer file written by longtail_tf"):
        Recognizer.load(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(UserError, match="recognizer file"):
        Recognizer.load(tmp_path / "one.npy")
    fitted.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is damaged or no recognizer file"):
        Recognizer.load(path)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    path.write_bytes(flipped)
    with pytest.raises(UserError, match="is damaged or no recognizer file"):
        Recognizer.load(path)
    arrays = dict(np.load(_written(path, whole), allow_pickle=False))
    del arrays["prototypes"]
    np.savez(path, **arrays)
    with pytest.raises(UserError, match="lacks prototypes; copy the whole file again"):
        Recognizer.load(path)
    monkeypatch.setattr(recognizer, "FORMAT_VERSION", 9)
    fitted.save(path)
    monkeypatch.setattr(recognizer, "FORMAT_VERSION", 1)
    with pytest.raises(UserError, match="has format 9, this longtail_tf reads up to 1; install"):
        Recognizer.load(path)


def _as_version_1(path, **retired):
    """Rewrites a recognizer as the version before wrote it, with the fields that are gone."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    meta = json.loads(str(arrays.pop("meta")))
    for name, value in retired.items():
        (arrays if isinstance(value, np.ndarray) else meta["values"])[name] = value
    meta.update(version=1, arrays=sorted(arrays))
    np.savez(path, meta=np.array(json.dumps(meta)), **arrays)


def test_a_recognizer_of_version_1_is_read_where_it_had_one_prototype_a_class(fitted, tmp_path):
    path = tmp_path / "prototypes.npz"
    plain = {
        "prototype_classes": np.arange(8, dtype=np.int32),
        "center": None,
        "prototype_bias": None,
    }
    fitted.save(path)
    _as_version_1(path, **plain)
    np.testing.assert_array_equal(Recognizer.load(path).prototypes, fitted.prototypes)
    for name, value in (
        ("prototype_classes", np.array([0, 0, 1, 2, 3, 4, 5, 6, 7], np.int32)),
        ("center", np.zeros(4, np.float32)),
        ("prototype_bias", np.zeros(8, np.float32)),
    ):
        fitted.save(path)
        _as_version_1(path, **{**plain, name: value})
        with pytest.raises(UserError, match=f"npz was written with {name}, which this longtail_tf"):
            Recognizer.load(path)


def _written(path, data):
    path.write_bytes(data)
    return path


def test_knn_is_exact_in_small_blocks(splits, fitted, monkeypatch):
    test = splits[2]
    whole = fitted.scores("knn", test.embeddings)
    monkeypatch.setattr(nearest_neighbours, "_GALLERY_ROWS", 37)
    monkeypatch.setattr(nearest_neighbours, "_BLOCK_CELLS", 400)
    # Two images of the gallery as near as equal may swap at the k-th place.
    similar = -np.sort(-test.embeddings.astype(np.float64) @ fitted.gallery.T.astype(np.float64))
    gap = similar[:, fitted.neighbours - 1] - similar[:, fitted.neighbours]
    clear = gap > 2 * rounding.sums_apart(16)
    assert clear.mean() > 0.9
    found = fitted.scores("knn", test.embeddings)
    np.testing.assert_allclose(found[clear], whole[clear], atol=1e-5 * np.abs(whole).max())


def test_linear_is_left_out_where_it_would_take_minutes(splits, monkeypatch):
    train, val, test = splits
    monkeypatch.setattr(fit, "MAX_CELLS", 100)
    lines = []
    got = fit_recognizer(train, val, num_classes=8, num_head=3, seed=0, log=lines.append)
    assert any("linear: not fitted, 382 images x 8 classes" in line for line in lines)
    assert "linear" not in evaluate_rules(got, test, train_counts=COUNTS, replicates=0)
    with pytest.raises(UserError, match="'linear' was not fitted here; available are ncm, knn"):
        got.scores("linear", test.embeddings)


def test_bad_input(splits, fitted):
    train, val, test = splits
    sizes = {"num_classes": 8, "num_head": NUM_HEAD, "seed": 0}
    with pytest.raises(UserError, match="inference rule 'best' is not known; choose one of ncm"):
        fitted.scores("best", test.embeddings)
    with pytest.raises(UserError, match="inference rule 'best' is not known; choose from ncm"):
        fit_recognizer(train, val, rules=("best",), **sizes)
    with pytest.raises(UserError, match=r"embeddings have shape \(200, 3\); .* expect \[N, 16\]"):
        fitted.scores("ncm", test.embeddings[:, :3])
    with pytest.raises(UserError, match="'head_only' needs head_logits; None came"):
        fitted.scores("head_only", test.embeddings)
    with pytest.raises(UserError, match=r"head_logits have shape \(200, 2\); expected \(200, 3\)"):
        fitted.scores("gated", test.embeddings, test.head_logits[:, :2])
    with pytest.raises(UserError, match="test_prior has shape"):
        fitted.scores("ncm", test.embeddings, test_prior=np.zeros(8))
    with pytest.raises(UserError, match=r"training head logits have shape \(382, 3\)"):
        fit_recognizer(train, val, num_classes=8, num_head=2, seed=0)
    with pytest.raises(UserError, match="the data set has other classes than the run"):
        evaluate_rules(fitted, test._replace(labels=test.labels + 1), train_counts=COUNTS)
    with pytest.raises(UserError, match=r"validation embeddings have shape \(80, 16\) and labels"):
        fit_recognizer(train, val._replace(labels=val.labels[:7]), **sizes)
    with pytest.raises(UserError, match="training embeddings hold NaN or infinity"):
        fit_recognizer(train._replace(embeddings=train.embeddings * np.inf), val, **sizes)
    with pytest.raises(UserError, match="1 of 9 classes have no image"):
        fit_recognizer(train, val, num_classes=9, num_head=NUM_HEAD, seed=0)


def digits_long_tail(seed):
    """Real digits as vectors, 100 down to 2 training images; ids by falling count."""
    from sklearn.datasets import load_digits

    pixels, digit = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    labels = rng.permutation(10)[digit].astype(np.int32)
    vectors = (pixels - pixels.mean(axis=0)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    counts = np.array([int(100 * 50 ** (-c / 9)) for c in range(10)])
    parts = [[], [], []]
    for class_id, count in enumerate(counts):
        rows = rng.permutation(np.flatnonzero(labels == class_id))
        for part, chosen in zip(parts, (rows[:count], rows[100:115], rows[115:])):
            part.append(chosen)
    return counts, [
        Embedded(vectors[np.concatenate(part)], None, labels[np.concatenate(part)])
        for part in parts
    ]


def test_gated_lda_adds_two_calibrated_opinions_within_the_head(splits, fitted):
    """Against plain loops over images and classes, in float64."""
    test = splits[2]
    kernel, bias = fitted.matrix("lda")
    parts = [fitted.temperatures[name] for name in ("lda", "head_only")]
    expected = np.empty((len(test.labels), 8))
    for i, (row, logits) in enumerate(zip(test.embeddings, test.head_logits)):
        own = (row.astype(np.float64) @ kernel + bias) / parts[0]
        head = np.exp(logits.astype(np.float64) / parts[1])
        expected[i] = own
        if own.argmax() < NUM_HEAD:
            both = own[:NUM_HEAD] + np.log(head / head.sum())
            expected[i, :NUM_HEAD] = both + own.max() - both.max()
    scores = fitted.scores("gated_lda", test.embeddings, test.head_logits)
    plain = fitted.scores("lda", test.embeddings)
    assert (scores.argmax(axis=1) != plain.argmax(axis=1)).any()  # the head has a say
    scores *= fitted.temperatures["gated_lda"]
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-2)
    assert (scores.argmax(axis=1) != expected.argmax(axis=1)).sum() <= 1


def test_gated_lda_of_its_own_has_the_temperatures_of_its_parts(splits):
    train, val, _ = splits
    sizes = dict(num_classes=8, num_head=NUM_HEAD, seed=0)
    alone = fit_recognizer(train, val, rules=("gated_lda",), **sizes)
    whole = fit_recognizer(train, val, **sizes)
    for name in ("ncm", "lda", "head_only", "gated_lda"):
        assert alone.temperatures[name] == pytest.approx(whole.temperatures[name], rel=1e-6)


def test_learning_on_real_digits():
    """Few-shot digits (2 to 19 images) are recognised far above the 10 % of chance."""
    rows = []
    for seed in range(3):
        counts, (train, val, test) = digits_long_tail(seed)
        got = fit_recognizer(train, val, num_classes=10, num_head=0, seed=seed)
        rows.append(evaluate_rules(got, test, train_counts=counts, replicates=0))
    for rule in ("ncm", "knn", "linear", "lda"):
        assert np.mean([row[rule]["few"] for row in rows]) > 0.6, rule
    balanced = {rule: np.mean([row[rule]["balanced"] for row in rows]) for rule in rows[0]}
    assert balanced["linear"] > balanced["ncm"] + 0.005


def test_no_tensorflow_is_imported():
    code = (
        "import sys; import longtail_tf.recognition.fit, longtail_tf.metrics; "
        "import longtail_tf.metrics.tables, longtail_tf.metrics.per_class; "
        "import longtail_tf.metrics.verification; "
        "sys.exit(any(m.split('.')[0] in ('tensorflow', 'scipy', 'sklearn') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

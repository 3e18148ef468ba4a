"""The serving module: what goes in, what comes out, what is refused and how."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.exporting.saved_model import build_serving_module
from longtail_tf.exporting.serving_module import Limits, labels_text
from longtail_tf.exporting.warmup import image_example
from longtail_tf.images import preprocess
from tests import export_model, rounding


def build(tmp_path, **changes):
    trained = export_model.trained()
    arguments = {
        "model": trained.model,
        "recognizer": trained.recognizer,
        "class_names": export_model.NAMES,
        "image_size": export_model.SIZE,
        "channels": export_model.CHANNELS,
        "labels_path": str(tmp_path / "labels.txt"),
    }
    return build_serving_module(**{**arguments, **changes})


@pytest.fixture(scope="module")
def functions(tmp_path_factory):
    return build(tmp_path_factory.mktemp("module")).signatures()


def call(function, **inputs):
    return {name: value.numpy() for name, value in function(**inputs).items()}


def test_every_signature_names_the_same_classes_as_the_recognizer(functions):
    trained, files = export_model.trained(), export_model.test_files(40)
    images = trained.test_images[:40]
    embedding, logits = (t.numpy() for t in trained.model.embed_with_logits(tf.constant(images)))
    expected = trained.recognizer.predict("gated", embedding, logits, k=5)
    rows = call(functions["serving_default"], image_bytes=tf.constant(files))
    for found, known in zip(ranked(rows), ranked(expected._asdict(), score="probabilities")):
        rounding.assert_same_top(found, known, atol=rounding.NETWORK)
    named = np.array(export_model.NAMES)[rows["class_ids"]]
    assert [[s.decode() for s in row] for row in rows["labels"]] == named.tolist()
    assert rows["valid"].all()
    assert np.mean(rows["class_ids"][:, 0] == trained.test_labels[:40]) > 0.85
    pixels = call(functions["predict_images"], images=tf.constant(images))
    for name, value in rows.items():
        assert np.array_equal(pixels[name], value)
    examples = tf.constant([image_example(file) for file in files])
    classified = call(functions["classify"], inputs=examples)
    assert sorted(classified) == ["classes", "scores"]
    assert np.array_equal(classified["classes"], rows["labels"])
    assert np.array_equal(classified["scores"], rows["scores"])
    embedded = call(functions["embed"], image_bytes=tf.constant(files))
    np.testing.assert_allclose(embedded["embedding"], embedding, atol=rounding.NETWORK)
    np.testing.assert_allclose(np.linalg.norm(embedded["embedding"], axis=1), 1, atol=1e-5)


def ranked(rows, *, score="scores"):
    """[(class id, score), ...] of each image."""
    return [list(zip(ids, scores)) for ids, scores in zip(rows["class_ids"], rows[score])]


def bad_files():
    good = export_model.test_files(1)[0]
    jpeg = export_model.encoded(np.full((64, 64, 3), 200, np.uint8), "JPEG")
    return {
        "empty": b"",
        "text": b"not an image",
        "truncated png": good[: len(good) // 2],
        "png header only": good[:20],
        "truncated jpeg": jpeg[: len(jpeg) // 2],
        "jpeg magic only": b"\xff\xd8\xff",
        "gif magic only": b"GIF89a",
        "bmp magic only": b"BM" + b"\0" * 60,
        "webp": b"RIFF\x24\0\0\0WEBPVP8 " + b"\0" * 30,
    }


def test_a_bad_image_does_not_fail_its_neighbours(functions):
    good = export_model.test_files(2)
    bad = list(bad_files().values())
    files = [good[0], *bad, good[1]]
    rows = call(functions["serving_default"], image_bytes=tf.constant(files))
    assert rows["valid"].tolist() == [True, *[False] * len(bad), True]
    alone = call(functions["serving_default"], image_bytes=tf.constant(good))
    found = ranked(rows)
    for mine, known in zip((found[0], found[-1]), ranked(alone)):
        rounding.assert_same_top(mine, known, atol=rounding.NETWORK)
    names = np.array([name.encode() for name in export_model.NAMES])
    assert np.array_equal(rows["labels"][[0, -1]], names[rows["class_ids"][[0, -1]]])
    middle = slice(1, -1)
    assert (rows["labels"][middle] == b"").all()
    assert (rows["class_ids"][middle] == -1).all()
    assert (rows["scores"][middle] == 0).all()
    embedded = call(functions["embed"], image_bytes=tf.constant(files))
    assert (embedded["embedding"][middle] == 0).all()
    assert embedded["valid"].tolist() == rows["valid"].tolist()


def test_a_request_of_bad_images_alone_is_answered(functions):
    rows = call(functions["serving_default"], image_bytes=tf.constant([b"", b"x"]))
    assert not rows["valid"].any()
    assert rows["labels"].shape == (2, 5)


def test_an_example_without_the_feature_is_one_bad_image(functions):
    examples = [
        image_example(export_model.test_files(1)[0]),
        tf.train.Example().SerializeToString(),
    ]
    rows = call(functions["classify"], inputs=tf.constant(examples))
    assert rows["classes"][0, 0] != b""
    assert (rows["classes"][1] == b"").all()


@pytest.mark.parametrize("key, name", [("serving_default", "image_bytes"), ("embed", "image_bytes"),
                                       ("classify", "inputs")])  # fmt: skip
def test_an_empty_batch_is_refused_in_words(functions, key, name):
    with pytest.raises(tf.errors.InvalidArgumentError, match="holds no image: send at least one"):
        functions[key](**{name: tf.constant([], tf.string)})


def test_an_empty_batch_of_pixels_is_refused_in_words(functions):
    with pytest.raises(tf.errors.InvalidArgumentError, match="holds no image: send at least one"):
        functions["predict_images"](images=tf.zeros([0, 16, 16, 3], tf.uint8))


def test_caps_make_an_image_invalid_before_it_is_decoded(tmp_path):
    limits = Limits(image_bytes=3000, image_pixels=400)
    function = build(tmp_path, limits=limits).signatures()["serving_default"]
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    files = [
        export_model.encoded(noise),  # 400 pixels
        export_model.encoded(np.zeros((20, 21, 3), np.uint8)),  # 420 pixels
        export_model.encoded(noise) + b"\0" * 3000,
    ]
    rows = call(function, image_bytes=tf.constant(files))
    assert rows["valid"].tolist() == [True, False, False]


def test_strict_refuses_the_request_and_says_which_images(tmp_path):
    function = build(tmp_path, limits=Limits(strict=True)).signatures()["serving_default"]
    good = export_model.test_files(1)[0]
    assert call(function, image_bytes=tf.constant([good]))["valid"].all()
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"cannot be read; send JPEG.*\[1 3\]"):
        function(image_bytes=tf.constant([good, b"", good, good[:30]]))


def test_images_without_pixels_or_with_too_many_are_refused(tmp_path):
    function = build(tmp_path, limits=Limits(image_pixels=400)).signatures()["predict_images"]
    for shape in ([1, 0, 5, 3], [1, 21, 20, 3]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="Images of 1 to 400 pixels"):
            function(images=tf.zeros(shape, tf.uint8))


@pytest.mark.parametrize("size", [(16, 16), (8, 8), (20, 31), (32, 32), (33, 16), (100, 40)])
def test_pixels_of_any_size_are_resized_by_the_one_preprocessing_rule(size):
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    expected = preprocess.preprocess_images(tf.constant(images), image_size=16)
    traced = tf.function(
        lambda x: preprocess.preprocess_images(x, image_size=16),
        input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)],
    )
    assert np.array_equal(traced(tf.constant(images)), expected)


def test_unknown_comes_first_where_no_prototype_is_near(tmp_path):
    trained, images = export_model.trained(), export_model.trained().test_images[:60]
    nearest = trained.recognizer.best_prototype_scores(
        trained.model(tf.constant(images), training=False).numpy()
    )
    threshold = float(np.median(nearest))
    plain = call(build(tmp_path).signatures()["predict_images"], images=tf.constant(images))
    module = build(tmp_path, unknown_threshold=threshold)
    rows = call(module.signatures()["predict_images"], images=tf.constant(images))
    clear = np.abs(nearest - threshold) > 1e-5
    unknown = nearest < threshold
    assert 20 < unknown.sum() < 40
    assert (rows["class_ids"][unknown & clear, 0] == -1).all()
    assert (rows["labels"][unknown & clear, 0] == b"unknown").all()
    found, known = ranked(rows), ranked(plain)
    for i in np.flatnonzero(clear):
        first, last = (1, -1) if unknown[i] else (0, None)
        rounding.assert_same_top(found[i][first:], known[i][:last], atol=rounding.NETWORK)


@pytest.mark.parametrize("top_k, given", [(1, 1), (10, 10), (50, 10)])
def test_no_more_candidates_than_classes(tmp_path, top_k, given):
    function = build(tmp_path, top_k=top_k).signatures()["predict_images"]
    assert call(function, images=tf.zeros([2, 16, 16, 3], tf.uint8))["scores"].shape == (2, given)


def test_settings_that_cannot_work_are_refused(tmp_path):
    with pytest.raises(UserError, match="--k_top=0: at least one candidate"):
        build(tmp_path, top_k=0)
    with pytest.raises(UserError, match="scores 10 classes and 2 class names were given"):
        build(tmp_path, class_names=["a", "b"])
    with pytest.raises(UserError, match=r"Class 1 is named 'b\\nc': a labels file holds one name"):
        labels_text(["a", "b\nc"])
    with pytest.raises(UserError, match="Class 0 is named ''"):
        labels_text([""])


def test_only_the_variables_that_are_read_are_kept(tmp_path):
    ncm = build(tmp_path, rule="ncm")
    ncm.signatures()
    assert not any("head/kernel" in variable.name for variable in ncm.used_variables)
    gated = build(tmp_path)
    gated.signatures()
    assert len(gated.used_variables) > len(ncm.used_variables)

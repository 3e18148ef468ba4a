"""load_index over arrays: class numbers, held-out splits, digest, exclusion, bad arrays."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from longtail_tf.datasets import load_index
from longtail_tf.errors import UserError


def save(path, labels, *, images=None, **arrays):
    """An npz whose image pixels tell their row, so that pixels and labels can be matched."""
    labels = np.asarray(labels)
    if images is None:
        images = np.zeros((len(labels), 4, 5, 3), np.uint8)
        images[:, 0, 0, 0], images[:, 0, 0, 1] = np.divmod(np.arange(len(labels)), 256)
    np.savez(path, images=images, labels=labels, **arrays)
    return f"npz:{path}"


def rows_of(split):
    """The source rows of a split, read from the pixels."""
    pixels = split.read(np.arange(len(split)))[:, 0, 0].astype(int)
    return pixels[:, 0] * 256 + pixels[:, 1]


def ragged(counts, seed=0):
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


@pytest.fixture
def spec_of(tmp_path):
    return lambda labels, **kwargs: save(tmp_path / "set.npz", labels, **kwargs)


def test_ids_fall_by_training_count_and_ties_keep_source_order(spec_of):
    index = load_index(spec_of(ragged([3, 9, 1, 9, 3])) + "?test_fraction=0", val_per_class=0)
    assert list(index.class_names) == ["1", "3", "0", "4", "2"]
    assert list(index.class_counts) == [9, 9, 3, 3, 1] and index.class_counts.dtype == np.int64
    assert index.num_classes == 5 and index.val is None and index.test is None
    assert index.image_shape == (4, 5, 3) and index.channels == 3 and index.flip_is_valid


@pytest.mark.parametrize("seed", range(5))
def test_labels_follow_their_images(spec_of, seed):
    rng = np.random.default_rng(seed)
    labels = ragged(rng.integers(2, 60, 12), seed)
    index = load_index(spec_of(labels), split_seed=seed)
    names = np.array(list(index.class_names))
    for split in (index.train, index.val, index.test):
        np.testing.assert_array_equal(names[split.labels].astype(int), labels[rows_of(split)])
        assert split.labels.dtype == np.int32 and not split.encoded
    everything = np.concatenate([rows_of(s) for s in (index.train, index.val, index.test)])
    assert sorted(everything) == list(range(len(labels)))
    np.testing.assert_array_equal(np.bincount(index.train.labels), index.class_counts)


@pytest.mark.parametrize("most", [0, 1, 3, 20])
def test_validation_is_a_tenth_but_not_too_much_and_never_the_last(spec_of, most):
    counts = np.array([1, 2, 4, 5, 6, 14, 15, 44, 45, 250, 1000])
    index = load_index(spec_of(ragged(counts)) + "?test_fraction=0", val_per_class=most)
    taken = {
        int(name): int(np.sum(index.val.labels == i)) if index.val else 0
        for i, name in enumerate(index.class_names)
    }
    # By hand: half of the next ten rounds up, never the only image.
    tenth = [0, 0, 0, 1, 1, 1, 2, 4, 5, 25, 100]
    assert [taken[c] for c in range(len(counts))] == [min(n, most) for n in tenth]
    assert index.class_counts.sum() == counts.sum() - sum(taken.values())


def test_ids_fall_by_what_is_left_after_validation(spec_of):
    # 15 images give 2 to validation and 14 give 1: both keep 13, so they tie.
    index = load_index(spec_of(ragged([14, 15])) + "?test_fraction=0")
    assert list(index.class_counts) == [13, 13] and list(index.class_names) == ["0", "1"]


def test_test_images_are_held_out_where_there_are_none(spec_of):
    counts = np.array([1, 2, 3, 10, 100])
    index = load_index(spec_of(ragged(counts)), val_per_class=0)
    held = {int(n): int(np.sum(index.test.labels == i)) for i, n in enumerate(index.class_names)}
    assert [held[c] for c in range(5)] == [0, 0, 1, 2, 20]
    assert any("no test split: 23 images (20% of each class" in note for note in index.notes)
    half = load_index(spec_of(ragged(counts)) + "?test_fraction=0.5", val_per_class=0)
    assert len(half.test) == 1 + 2 + 5 + 50


def test_nearly_all_held_out_still_leaves_one(spec_of):
    index = load_index(spec_of(ragged([1, 3, 100])) + "?test_fraction=0.9", val_per_class=0)
    assert list(index.class_counts) == [10, 1, 1]


def test_split_seed_chooses_and_repeats(spec_of):
    spec = spec_of(ragged([50, 60, 70]))
    first, again, other = (load_index(spec, split_seed=s) for s in (0, 0, 1))
    assert list(rows_of(first.test)) == list(rows_of(again.test)) != list(rows_of(other.test))
    assert list(rows_of(first.val)) == list(rows_of(again.val)) != list(rows_of(other.val))
    assert first.digest == again.digest != other.digest


def test_given_splits_are_kept(spec_of):
    labels = np.array([0, 1, 0, 1, 0, 1, 1])
    split = np.array([0, 0, 2, 2, 1, 1, 0], np.uint8)
    spec = spec_of(
        labels, split=split, split_names=np.array(["training", "test", "Val"]),
        class_names=np.array(["cat", "dog"]),
    )  # fmt: skip
    index = load_index(spec)
    assert list(rows_of(index.train)) == [0, 1, 6]
    assert list(rows_of(index.val)) == [2, 3] and list(rows_of(index.test)) == [4, 5]
    assert list(index.class_names) == ["dog", "cat"] and index.notes == ()
    assert index.test.describe(1) == "row 5 of set.npz" and index.test.key(1) == "5"


def test_digest_knows_content_not_place(spec_of, tmp_path):
    labels = ragged([10, 20])
    spec = spec_of(labels)
    digest = load_index(spec).digest
    shutil.copy(tmp_path / "set.npz", tmp_path / "elsewhere.npz")
    assert load_index(f"npz:{tmp_path / 'elsewhere.npz'}").digest == digest
    images = np.zeros((30, 4, 5, 3), np.uint8)
    images[7, 1, 2, 0] = 1
    assert load_index(spec_of(labels, images=images)).digest != digest
    moved = labels.copy()
    moved[[0, 1]] = 1 - moved[[0, 1]]
    assert load_index(spec_of(moved)).digest != digest
    assert load_index(spec_of(labels, class_names=np.array(["0", "b"]))).digest != digest
    assert load_index(spec_of(labels)).digest == digest


def test_long_tailed_cut_from_the_spec(spec_of):
    labels = np.repeat([0, 1, 2], 100)
    spec = spec_of(labels) + "?imbalance_factor=25&test_fraction=0.2"
    index = load_index(spec, val_per_class=0)
    assert list(index.class_counts) == [80, 16, 3] and len(index.test) == 60
    assert any("cut long-tailed by 25 (seed 0): 99 images of 240 stay" in n for n in index.notes)
    other = load_index(spec + "&seed=1", val_per_class=0)
    assert list(rows_of(other.train)) != list(rows_of(index.train))
    assert list(rows_of(other.test)) == list(rows_of(index.test))


def test_grey_images_are_not_flipped_unless_asked(spec_of):
    labels = np.repeat([0, 1], 5)
    spec = spec_of(labels, images=np.zeros((10, 6, 7), np.uint8))
    index = load_index(spec)
    assert index.image_shape == (6, 7, 1) and index.channels == 1 and not index.flip_is_valid
    assert load_index(spec + "?flip=true").flip_is_valid
    assert index.train.read(np.array([0, 2, 0])).shape == (3, 6, 7, 1)


def test_exclude_leaves_rows_out(spec_of, tmp_path):
    spec = spec_of(np.repeat([0, 1], 10)) + "?test_fraction=0"
    listed = tmp_path / "bad.txt"
    listed.write_text("# why\n3\tblurred\n\n17\n999\n3\n")
    whole, index = (
        load_index(spec, val_per_class=0),
        load_index(spec, val_per_class=0, exclude=str(listed)),
    )
    assert sorted(rows_of(index.train)) == [r for r in range(20) if r not in (3, 17)]
    assert whole.digest != index.digest
    assert any("2 images left out" in n and "1 entry name no image" in n for n in index.notes)


def test_exclude_that_fits_nothing(spec_of, tmp_path):
    spec = spec_of(np.repeat([0, 1], 10))
    (tmp_path / "bad.txt").write_text("cat/1.jpg\n")
    with pytest.raises(UserError, match="no entry of .*bad.txt is an image .*named like '0'"):
        load_index(spec, exclude=str(tmp_path / "bad.txt"))
    with pytest.raises(UserError, match="cannot be read .No such file"):
        load_index(spec, exclude=str(tmp_path / "missing.txt"))
    (tmp_path / "bad.txt").write_text('1\n"broken\n')
    with pytest.raises(UserError, match="bad.txt, line 2, starts with a quote"):
        load_index(spec, exclude=str(tmp_path / "bad.txt"))


def test_untrained_classes_are_listed_or_dropped(spec_of):
    labels = np.array([0, 0, 1, 1, 2, 3])
    split = np.array([0, 0, 0, 0, 1, 0], np.uint8)
    names = np.array(["a", "b", "only_tested", "d", "nowhere"])
    spec = spec_of(labels, split=split, split_names=np.array(["train", "test"]), class_names=names)
    match = (
        r"1 class \(only_tested\) with only validation or test images and 1 class \(nowhere\) "
        "with no image at all; add training images of them, or .*untrained=drop"
    )
    with pytest.raises(UserError, match=match):
        load_index(spec)
    spec = spec_of(
        np.append(labels, 0),
        split=np.append(split, 1).astype(np.uint8),
        split_names=np.array(["train", "test"]),
        class_names=names,
    )
    index = load_index(spec + "?untrained=drop")
    assert list(index.class_names) == ["a", "b", "d"] and list(rows_of(index.test)) == [6]
    assert any("2 classes without training images and their 1 val" in n for n in index.notes)


@pytest.mark.parametrize(
    "labels, match",
    [
        ([4, 4, 4], r"training images of one class only \(4\)"),
        ([0, 1], "has 2 training images, one in each class"),
        ([0], "one class only"),
    ],
)
def test_too_little_to_train_on(spec_of, labels, match):
    with pytest.raises(UserError, match=match):
        load_index(spec_of(labels))


@pytest.mark.parametrize(
    "labels, match",
    [
        (np.array([0, 1, -2, -1]), r"the negative label -2 in row 2 \(2 such rows"),
        (np.array([0.0, 1.0, 1.0, 2.0]), "labels of type float64; give whole numbers"),
        (np.array([0.0, np.nan, 1.0, 2.0]), "float64 with missing values"),
        (np.array(["a", "b", "a", "b"]), "labels of type <U1"),
        (np.array([[0], [1], [0], [1]]), r"shape \[4, 1\] for 4 images"),
        (np.array([0, 1, 0]), r"shape \[3\] for 4 images"),
    ],
)
def test_bad_labels(spec_of, labels, match):
    with pytest.raises(UserError, match=match):
        load_index(spec_of(labels, images=np.zeros((4, 2, 2, 3), np.uint8)))


@pytest.mark.parametrize(
    "images, match",
    [
        (np.zeros((4, 2, 2, 3), np.float32), "images of type float32; give uint8"),
        (np.zeros((4, 12), np.uint8), r"images of shape \[4, 12\]; give \[N, H, W\]"),
        (np.zeros((4, 3, 8, 8), np.uint8), "channels last"),
        (np.zeros((4, 8, 8, 4), np.uint8), "C = 1 or 3"),
        (np.zeros((4, 0, 8, 3), np.uint8), "no pixel at all"),
    ],
)
def test_bad_images(spec_of, images, match):
    with pytest.raises(UserError, match=match):
        load_index(spec_of([0, 1, 0, 1], images=images))


def test_no_images_at_all(spec_of):
    with pytest.raises(UserError, match="no pixel at all"):
        load_index(spec_of(np.zeros(0, int), images=np.zeros((0, 8, 8, 3), np.uint8)))


@pytest.mark.parametrize(
    "arrays, match",
    [
        ({"class_names": np.array(["a"])}, "label 1 in row 1 but only 1 class_names"),
        ({"class_names": np.array(["a", "a"])}, "come twice: a"),
        ({"class_names": np.array([1, 2])}, "class_names of type int64"),
        ({"split": np.zeros(4, np.uint8)}, "no split_names"),
        ({"split": np.zeros(3, np.uint8), "split_names": np.array(["train"])}, "a split of type"),
        ({"split": np.zeros(4), "split_names": np.array(["train"])}, "split of type float64"),
        ({"split": np.full(4, 2), "split_names": np.array(["train"])}, "from 2 to 2 but 1 split"),
        ({"split": np.zeros(4, int), "split_names": np.array(["x"])}, "split_names x; use only"),
    ],
)
def test_bad_names_and_splits(spec_of, arrays, match):
    with pytest.raises(UserError, match=match):
        load_index(spec_of([0, 1, 0, 1], **arrays))


def test_files_that_are_no_npz(tmp_path):
    with pytest.raises(UserError, match="there is no file .*gone.npz"):
        load_index(f"npz:{tmp_path / 'gone.npz'}")
    path = tmp_path / "x.npz"
    path.write_bytes(b"hello, this is no archive")
    with pytest.raises(UserError, match="cannot be read as an .npz file"):
        load_index(f"npz:{path}")
    np.savez(path, labels=np.zeros(3, int))
    with pytest.raises(UserError, match="no array 'images', only labels"):
        load_index(f"npz:{path}")
    np.savez(path, images=np.zeros((3, 2, 2), np.uint8))
    with pytest.raises(UserError, match="no array 'labels', only images"):
        load_index(f"npz:{path}")
    np.savez(path, images=np.array([object()], object), labels=np.zeros(1, int))
    with pytest.raises(UserError, match="holds Python objects"):
        load_index(f"npz:{path}")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(UserError, match="single array"):
        load_index(f"npz:{tmp_path / 'one.npy'}")
    save(path, np.repeat([0, 1], 10))
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(UserError, match="damaged"):
        load_index(f"npz:{path}")


@pytest.mark.parametrize(
    "settings, match",
    [({"val_per_class": -1}, "val_per_class=-1 is negative")],
)
def test_settings_out_of_range(spec_of, settings, match):
    with pytest.raises(UserError, match=match):
        load_index(spec_of(np.repeat([0, 1], 10)), **settings)
    with pytest.raises(UserError, match="test_fraction=1 is no share"):
        load_index(spec_of(np.repeat([0, 1], 10)) + "?test_fraction=1")


def test_real_data_sets(real_data):
    index = load_index(f"npz:{real_data / 'omniglot_lt_28.npz'}")
    assert index.num_classes == 964 and not index.flip_is_valid
    assert len(index.val) == 964 and len(index.test) == 5 * 964
    assert index.class_counts[0] == 14 and index.class_counts[-1] == 1
    index = load_index(f"npz:{real_data / 'clothing_48.npz'}")
    assert index.num_classes == 17 and index.flip_is_valid


@pytest.mark.parametrize(
    "counts", [[9, 9, 3, 3, 1], [7, 6, 5, 4, 3, 2], [3, 3], [20, 4, 4, 4], list(range(1, 102))]
)
def test_three_quarters_of_the_classes_have_the_quartile_count(spec_of, counts):
    counts = sorted(counts)[::-1]
    labels = np.repeat(np.arange(len(counts)), counts)
    index = load_index(spec_of(labels) + "?test_fraction=0", val_per_class=0)
    have = np.mean(np.array(counts) >= index.quartile_count)
    more = np.mean(np.array(counts) > index.quartile_count)
    assert have >= 0.75 - 1 / len(counts) and more <= 0.75

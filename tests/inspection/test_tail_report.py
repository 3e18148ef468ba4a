"""The numbers that `inspect` shows, the text chart and the picture."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from longtail_tf.errors import UserError
from longtail_tf.head_set import select_head
from longtail_tf.inspection.count_curve import count_curve_png
from longtail_tf.inspection.tail_report import recommended_head, tail_facts
from longtail_tf.inspection.tail_text import bytes_text, tail_text
from longtail_tf.inspection.terminal_chart import count_chart, short_number
from longtail_tf.sampling import PKSampler

DIGITS = [108, 71, 47, 31, 21, 13, 9, 5, 4, 3]
COSTS = {"embedding_dim": 128, "head_batch_size": 64}


def tails():
    rng = np.random.default_rng(0)
    yield "digits", DIGITS
    yield "two", [5, 1]
    yield "equal", [7] * 30
    yield "tied at the top", [9, 9, 9, 1]
    yield "single images", [1] * 40
    yield "long", np.maximum(1, (9e5 / np.arange(1, 200_001) ** 1.05)).astype(int)
    for size in (3, 68, 69, 100, 499, 501, 5000):
        yield f"random {size}", rng.integers(1, 10 ** rng.integers(1, 6), size, endpoint=True)


def test_facts_of_a_small_tail_by_hand():
    facts = tail_facts(DIGITS[::-1], name="digits", splits={"train": 312, "val": 35, "test": None})
    assert facts["classes"] == 10 and facts["images"] == 312
    assert facts["counts"] == {
        "largest": 108, "median": 17.0, "mean": 31.2, "smallest": 3, "imbalance": 36.0,
        "classes_with_half_the_images": 2,
    }  # fmt: skip
    assert [facts["bands"][b]["classes"] for b in ("many", "medium", "few")] == [1, 4, 5]
    assert facts["bands"]["few"]["images"] == 34
    assert facts["whole_stream"]["classes_per_batch"] == 10, "all of a set of fewer than 16 classes"
    assert facts["whole_stream"]["steps_until_every_image"] == 27  # 108 images, 4 a visit
    assert facts["whole_stream"]["repeat_share"] == pytest.approx(1 / 40)
    # Of the 6 pairs of the class with 3 images 1 is an image with itself; of 60 pairs in all.
    assert facts["whole_stream"]["same_image_pair_share"] == pytest.approx(1 / 60)
    assert facts["curve"][0] == {"rank": 1, "images": 108, "image_share": 108 / 312}
    assert facts["curve"][-1] == {"rank": 10, "images": 3, "image_share": 1.0}
    assert facts["recommended_head"]["flag"] == "--head_min_count=20"
    assert facts["recommended_head"]["head_classes"] == 5
    assert facts["recommended_head"]["steps_per_image_pass"] == 5  # 278 images in batches of 64


@pytest.mark.parametrize(("name", "counts"), tails())
def test_half_of_the_images(name, counts):
    falling = sorted(np.asarray(counts).tolist(), reverse=True)
    half = tail_facts(counts)["counts"]["classes_with_half_the_images"]
    assert 2 * sum(falling[:half]) >= sum(falling) > 2 * sum(falling[: half - 1])


def test_whole_stream_facts_are_those_of_the_sampler():
    labels = np.repeat(np.arange(10), DIGITS)
    sampler = PKSampler(labels, classes_per_batch=4, images_per_class=8, seed=0)
    facts = tail_facts(DIGITS, classes_per_batch=4, images_per_class=8)["whole_stream"]
    assert facts.items() <= sampler.describe().items()


@pytest.mark.parametrize(("name", "counts"), tails())
def test_recommended_head_follows_its_rule(name, counts):
    counts = np.asarray(counts)
    best = recommended_head(counts, **COSTS)
    if len(set(counts.tolist())) == 1:
        assert best is None
        return
    head = select_head(counts, min_count=best["setting"])
    assert best["head_classes"] == len(head)
    floor = 20 if counts.max() > 20 else 0
    half, tied_top = len(counts) // 2, int((counts == counts.max()).sum())
    if tied_top > half:
        assert len(head) == tied_top
    else:
        assert len(head) <= half and best["setting"] >= floor
        wider = np.flatnonzero(counts > best["setting"] - 1)
        assert best["setting"] == floor or len(wider) > half, "no larger head keeps the rule"


def test_recommended_head_keeps_to_the_memory_limit():
    counts = np.arange(2_000_000, 0, -1)
    best = recommended_head(counts, embedding_dim=512, head_batch_size=128)
    assert best["head_classes"] < 1_000_000
    assert 0.999 * 2**30 < best["training_bytes"] <= 2**30


@pytest.mark.parametrize(("name", "counts"), tails())
@pytest.mark.parametrize("unicode", [True, False])
def test_text_fits_80_columns_and_shows_the_numbers(name, counts, unicode):
    facts = tail_facts(counts, name=name, splits={"train": 3, "val": None, "test": 12_345})
    note = "A sentence about this data that is long enough to go on over more than one line of it."
    text = tail_text(facts, counts, notes=[note], unicode=unicode)
    lines = text.splitlines()
    assert max(map(len, lines)) < 80 and all(line == line.rstrip() for line in lines)
    assert unicode or text.isascii()
    assert f"{name}: {len(counts):,} classes" in lines[0]
    assert "train 3  val none  test 12,345" in text
    assert f"largest {max(counts):,} |" in text and f"smallest {min(counts):,} |" in text
    for row in facts["head_settings"]:
        assert f"--head_{row['rule']}={row['setting']} " in text
    if facts["recommended_head"]:
        assert f"Start from {facts['recommended_head']['flag']}:" in text
    else:
        assert "no setting of any rule cuts a head" in text


@pytest.mark.parametrize(("name", "counts"), tails())
def test_facts_can_be_written_as_json(name, counts):
    facts = tail_facts(counts, name=name)
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def advice_of(counts, **settings):
    return " ".join(tail_facts(counts, **settings)["advice"])


def test_advice_is_given_where_it_is_due():
    ones = [400, 90, 30, 10, 3, 1, 1, 1]
    assert "% of the places in a whole batch repeat an image of that batch" in advice_of(ones)
    assert "A smaller --images_per_class than 4, or --class_power=0.5" in advice_of(ones)
    assert "A smaller --images_per_class" not in advice_of(ones, images_per_class=2)
    assert "3 classes have one training image:" in advice_of(ones)
    assert "1 class has one training image:" in advice_of([400, 90, 30, 1])
    giant = advice_of([400] + [2] * 39)
    assert "so it takes 250 steps to show every image of the largest class (400" in giant
    assert "No class is few-shot" in advice_of([400, 90, 30])
    assert "no head rule can cut one" in advice_of([9, 9, 9])
    assert "There is no test split" in advice_of([9, 3], splits={"train": 12, "test": None})
    assert advice_of([90, 40, 30, 20, 19], splits={"train": 199, "test": 50}) == ""


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"classes_per_batch": 11}, "classes_per_batch is 11, but the data has only 10 classes"),
        ({"images_per_class": 1}, "images_per_class is 1, but it must be at least 2"),
        ({"head_batch_size": 0}, "head_batch_size is 0, but it must be at least 1"),
        ({"embedding_dim": 0}, "embedding_dim is 0, but it must be at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, match):
    with pytest.raises(UserError, match=match):
        tail_facts(DIGITS, **settings)


# --- the chart -----------------------------------------------------------------------------------


def test_chart_of_four_classes_drawn_by_hand():
    assert count_chart([1, 1000, 100, 10], width=20, height=4, unicode=False) == [
        "  1,000 |#####",
        "        |##########",
        "        |###############",
        "      1 |####################",
        "        +--------------------",
        "         1    2    3        4",
        "         many|medi|-- few --|",
    ]


@pytest.mark.parametrize("size", [1, 2, 5, 68, 69, 480, 501, 100_000])
def test_chart_bars_fall_and_start_at_the_top(size):
    counts = np.maximum(1, 1e6 / np.arange(1, size + 1) ** 1.3).astype(int)
    lines = count_chart(counts, width=60, height=9, unicode=False)
    heights = np.array([sum(row[9 + i : 10 + i] == "#" for row in lines[:9]) for i in range(60)])
    shown = heights[heights > 0]
    assert shown[0] == 9 and (np.diff(shown) <= 0).all()
    assert len(shown) == (60 // size * size if size <= 60 else 60), "every column has a foot"
    assert len(lines) == 12 and max(map(len, lines)) <= 70


def test_short_numbers_and_bytes():
    numbers = [1, 950, 99_999, 100_000, 1_234_567, 2_500_000_000]
    assert [short_number(n) for n in numbers] == ["1", "950", "99,999", "100k", "1.23M", "2.5G"]
    sizes = [0, 999, 1024, 1000 * 1024, 5 * 2**30, 3 * 2**40]
    texts = ["0 B", "999 B", "1.0 KB", "1.0 MB", "5.0 GB", "3.0 TB"]
    assert [bytes_text(size) for size in sizes] == texts


# --- the picture ---------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [DIGITS, [5, 1], [7] * 3, [9000 // i for i in range(1, 701)]])
def test_picture_is_a_png_with_the_band_colours(counts):
    from PIL import Image

    image = Image.open(io.BytesIO(count_curve_png(counts, tail_facts(counts, name="x"))))
    assert image.format == "PNG" and image.size == (1500, 660)
    pixels = set(map(tuple, np.asarray(image.convert("RGB")).reshape(-1, 3)[::7].tolist()))
    colours = {"many": (0x1F, 0x6F, 0xB2), "medium": (0xB0, 0x74, 0x00), "few": (0xB2, 0x3A, 0x78)}
    present = {
        "many": max(counts) > 100,
        "medium": any(20 <= n <= 100 for n in counts),
        "few": min(counts) < 20,
    }
    for band in ("medium", "few"):
        assert (colours[band] in pixels) == present[band]
    assert colours["many"] in pixels or not present["many"]

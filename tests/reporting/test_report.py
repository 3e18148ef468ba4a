from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from longtail_tf import report
from longtail_tf.errors import UserError
from longtail_tf.reporting import charts
from longtail_tf.reporting import html as markup
from longtail_tf.reporting.html import element
from longtail_tf.reporting.map_section import MOST_POINTS, chosen_images, embedding_map
from longtail_tf.reporting.mistakes import most_confused, nearest_prototypes
from longtail_tf.reporting.page import Section, page
from longtail_tf.reporting.pictures import data_uri
from longtail_tf.reporting.run_data import Recognised, read_run, read_vectors
from longtail_tf.reporting.style import STYLE
from tests import report_fixtures, rounding, waiting
from tests.report_fixtures import Outline

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
CHROMIUM_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
EVIL = "<script>window.hacked=1</script>"
SECTIONS = ("bands", "data", "size", "confused", "weakest", "map", "calibration", "unknowns",
            "retrieval", "training", "reproduce")  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run folder with hostile class names, its index, and its report."""
    folder = tmp_path_factory.mktemp("report") / 'run "<b>'
    names = [f"class {i}" for i in range(60)]
    names[0], names[59] = EVIL, "long" * 60
    names[58] = "\u202eright to left\x00"
    index = report_fixtures.make_run(folder, names=names, num_classes=60, test_per_class=6)
    path = report.write_report(folder, index=index)
    return folder, index, path.read_text(encoding="utf-8")


def test_page_is_complete_and_well_formed(made):
    outline = Outline(made[2])
    assert outline.open == []
    assert [i for i in outline.ids if i in SECTIONS] == list(SECTIONS)
    assert len(set(outline.ids)) == len(outline.ids)
    assert "Not in this report" not in outline.words


def test_page_loads_nothing_from_elsewhere(made):
    for tag, attributes in Outline(made[2]).elements:
        assert tag not in ("link", "iframe", "object", "embed")
        for name in ("src", "href", "srcset", "action", "poster"):
            value = attributes.get(name) or ""
            assert value.startswith(("data:image/", "#")) or not value
    assert "url(" not in made[2] and "@import" not in made[2] and "http" not in made[2].replace(
        "http-equiv", ""
    )  # fmt: skip


def test_the_page_allows_its_own_script_and_styles_and_nothing_else(made):
    text = made[2]
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1))
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for name, tag in (("style-src", "style"), ("script-src", "script")):
        inside = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.S)
        digests = [hashlib.sha256(each.encode()).digest() for each in inside]
        own = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
        assert rules[name].split() == own
    assert rules["default-src"] == "'none'" and "unsafe" not in policy
    assert not re.search(r"<[^>]* (style|on[a-z]+)=", text)
    places = set(re.findall(r' data-at="([^"]*)"', text))
    assert places and all(f'[data-at="{place}"]{{{place}}}' in text for place in places)


def test_a_name_cannot_become_a_style():
    name = 'data-at="left:1%"} body{display:none'
    text = page("t", [], [Section("a", name, name, element("p", name, title=name))], footer=name)
    assert "data-at" in text and "[data-at=" not in text


def test_user_given_names_are_text_everywhere(made):
    outline = Outline(made[2])
    assert made[2].count("<script>") == 1  # the page's own
    assert EVIL in outline.words
    assert not any(tag == "b" and not a for tag, a in outline.elements if EVIL in str(a))
    assert "\x00" not in made[2]
    assert 'run "<b>' in outline.words  # the folder's name


def test_numbers_are_those_of_the_run(made):
    folder, _, text = made
    words = Outline(text).words.replace("\u202f", " ")
    rules = json.loads((folder / "evaluation.json").read_text())["rules"]
    for rule, metrics in rules.items():
        assert rule in words
        for group in ("all", "many", "medium", "few"):
            assert f"{100 * metrics[group]:.1f} %" in words
            low, high = metrics["intervals"][group]
            assert f"{100 * low:.1f}–{100 * high:.1f}" in words
    assert f"{100 * rules['gated']['all']:.1f} % of 360 test images named right" in words
    assert report_fixtures.DIGEST in words
    assert "python -m longtail_tf.train" in words and "--head_ratio=0.2" in words
    assert "2.15.1" in words and "0123abc" in words
    assert "20,000 steps" in words and "omniglot_lt" in words


def test_accessibility(made):
    outline = Outline(made[2])
    tags = [tag for tag, _ in outline.elements]
    assert tags.count("h1") == 1 and tags.count("main") == 1
    for tag, attributes in outline.elements:
        if tag == "img":
            assert attributes["alt"].strip()
        if tag == "svg":
            assert attributes["role"] == "img" and attributes["aria-label"].strip()
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
        if tag == "html":
            assert attributes["lang"] == "en"
    assert tags.count("table") == tags.count("caption") >= 5


def test_commands_are_quoted_for_a_shell(made, tmp_path):
    folder, _, _ = made
    text = Outline(report.write_report(folder, out=tmp_path / "r.html").read_text()).words
    assert f"""'--run_dir={folder}'""" in text


@pytest.mark.parametrize(
    "missing, gone",
    [
        (("evaluation.json",), {"bands", "unknowns", "retrieval"}),
        (("classes.csv",), {"data", "size", "confused", "weakest", "map"}),
        (("per_class.csv",), {"size", "weakest"}),
        (("embeddings.npz",), {"confused", "map", "calibration"}),
        (("metrics.jsonl",), {"training"}),
        (("prototypes.npz", "head_set.json", "config.flags"), set()),
        (("evaluation.json", "classes.csv", "per_class.csv", "embeddings.npz", "metrics.jsonl",
          "prototypes.npz", "head_set.json", "config.flags"), set(SECTIONS) - {"reproduce"}),
    ],
)  # fmt: skip
def test_missing_inputs_leave_out_their_sections_with_a_sentence(tmp_path, missing, gone):
    report_fixtures.make_run(tmp_path / "run", num_classes=20, test_per_class=3, missing=missing)
    outline = Outline(report.write_report(tmp_path / "run").read_text())
    assert set(SECTIONS) - set(outline.ids) == gone
    assert ("left-out" in outline.ids) == bool(gone)
    assert outline.words.count("evaluated yet") == ("evaluation.json" in missing)
    assert "no example images" in outline.words or not {"confused", "weakest"} - gone


def test_example_images_need_the_same_data(tmp_path):
    index = report_fixtures.make_run(tmp_path / "run", num_classes=30, test_per_class=4)
    with_images = report.write_report(tmp_path / "run", index=index).read_text()
    assert "data:image/png;base64," in with_images
    index.digest = "0" * 64
    without = report.write_report(tmp_path / "run", index=index).read_text()
    assert "<img" not in without and "its digest differs" in without


def test_validation_images_stand_in_where_there_is_no_test_split(tmp_path):
    index = report_fixtures.make_run(tmp_path / "run", num_classes=30, test_per_class=4)
    path = tmp_path / "run" / "evaluation.json"
    path.write_text(path.read_text().replace('"split": "test"', '"split": "val"'))
    index.val, index.test = index.test, None
    text = report.write_report(tmp_path / "run", index=index).read_text()
    assert "<img" in text and "120 validation images named right" in Outline(text).words


def test_encoded_images_become_small_jpegs_and_broken_ones_are_said(tmp_path):
    index = report_fixtures.make_run(
        tmp_path / "run", num_classes=30, test_per_class=4, encoded=True
    )
    read = index.test.read

    def half_broken(rows):
        images = read(rows)
        images[0] = b"not an image"
        return images

    index.test.read = half_broken
    text = report.write_report(tmp_path / "run", index=index).read_text()
    assert "data:image/jpeg;base64," in text and "(not readable)" in text


@pytest.mark.parametrize("shape", [(28, 28, 1), (48, 48, 3), (300, 200, 3)])
def test_data_uri_keeps_the_image(rng, shape):
    image = rng.integers(0, 255, shape, dtype=np.uint8)
    uri, is_crisp = data_uri(image)
    kept = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
    assert is_crisp == (max(shape) <= 32)
    if is_crisp:
        np.testing.assert_array_equal(kept.reshape(shape), image)
    assert max(kept.shape[:2]) <= 96


def test_size_is_capped_however_many_classes(tmp_path):
    index = report_fixtures.make_run(tmp_path / "run", num_classes=4000, test_per_class=1)
    small = len(report.write_report(tmp_path / "run", index=index).read_bytes())
    assert small < 700_000  # the caps, not the classes, set the size
    text = (tmp_path / "run" / "report.html").read_text()
    assert text.count('class="dot') < 1200 + MOST_POINTS + 100


def test_words_follow_the_numbers(tmp_path):
    report_fixtures.make_run(tmp_path / "run", num_classes=30, test_per_class=4)
    path = tmp_path / "run" / "evaluation.json"
    evaluation = json.loads(path.read_text())

    def words(**changes):
        for rule, values in changes.items():
            evaluation["rules"][rule].update(values)
        path.write_text(json.dumps(evaluation))
        return Outline(report.write_report(tmp_path / "run").read_text()).words

    known = {"all": 0.6, "many": 0.9, "few": 0.5, "ece": 0.02, "intervals": {"all": [0.55, 0.65]}}
    text = words(
        gated=known,
        head_only={"all": 0.2},
        linear={"all": 0.63},
        ncm={"all": 0.5},
        knn={"all": 0.5},
    )
    assert "rarity costs 40 points" in text
    assert "recognising every class adds 40.0 points" in text
    assert "linear is 3.0 points ahead" in text
    assert "can be read as a probability" in text
    text = words(
        gated={"few": 0.95, "ece": 0.3}, head_only={"all": 0.61}, linear={"all": 0.1},
        knn={"all": 0.1},
    )  # fmt: skip
    assert "rare classes are not the weak side" in text
    assert "does not pay on these images" in text
    assert "should not be read as a probability" in text
    assert "head_only is 1.0 points ahead" in text
    assert "No other inference rule is more accurate" in words(head_only={"all": 0.1})
    assert "none" in words(gated={"few": None, "intervals": {}})


def test_damaged_files_are_named(tmp_path):
    report_fixtures.make_run(tmp_path / "run", num_classes=20, test_per_class=2)
    for name, content in (
        ("classes.csv", "id,name\n0,a\n"),
        ("per_class.csv", "id,test_images,recall,precision\n0,x,1,1\n"),
        ("embeddings.npz", "PK no archive"),
        ("evaluation.json", "{"),
    ):
        good = (tmp_path / "run" / name).read_bytes()
        (tmp_path / "run" / name).write_text(content)
        with pytest.raises(UserError, match=rf"{re.escape(name)} is damaged"):
            report.write_report(tmp_path / "run")
        (tmp_path / "run" / name).write_bytes(good)
    with pytest.raises(UserError, match="is not a run folder"):
        report.write_report(tmp_path)


def test_entry_point_writes_page_and_projector_files(tmp_path, capsys):
    report_fixtures.make_run(
        tmp_path / "run", num_classes=20, test_per_class=3, config={"data": "npz:/not/there.npz"}
    )
    config = report.ReportConfig(
        run_dir=str(tmp_path / "run"), out=str(tmp_path / "a.html"),
        projector=str(tmp_path / "projector"),
    )  # fmt: skip
    path = report.run(config)
    assert capsys.readouterr().out.strip() == str(path) == str(tmp_path / "a.html")
    assert "no example images" in path.read_text()
    vectors = np.loadtxt(tmp_path / "projector" / "vectors.tsv", delimiter="\t")
    kept = np.load(tmp_path / "run" / "embeddings.npz")
    np.testing.assert_allclose(vectors, kept["embeddings"], atol=1e-5)
    lines = (tmp_path / "projector" / "metadata.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["class", "band", "train_images", "named", "right"]
    right = [line.split("\t")[-1] == "yes" for line in lines[1:]]
    np.testing.assert_array_equal(right, kept["labels"] == kept["predictions"])
    (tmp_path / "run" / "embeddings.npz").unlink()
    with pytest.raises(UserError, match="holds no test embeddings"):
        report.run(config)
    with pytest.raises(UserError, match="not/there"):
        report.run(report.ReportConfig(run_dir=str(tmp_path / "run"), data="npz:/not/there.npz"))


def test_most_confused_pairs_against_a_plain_count(rng):
    labels, predictions = rng.integers(0, 6, 400), rng.integers(-1, 6, 400)
    found = most_confused(Recognised(labels, predictions, np.arange(400), None), 6)
    count = {}
    for true, given in zip(labels.tolist(), predictions.tolist()):
        if given not in (-1, true):
            count[(true, given)] = count.get((true, given), 0) + 1
    both = {(a, b): count.get((a, b), 0) + count.get((b, a), 0) for a, b in count if a < b}
    sizes = [both[tuple(sorted(pair))] for pair in found]
    assert sizes == sorted(both.values(), reverse=True)[: len(found)]
    assert all(count.get(pair, 0) >= count.get(pair[::-1], 0) for pair in found)


def test_nearest_prototypes_against_a_plain_search(tmp_path, rng):
    report_fixtures.make_run(tmp_path / "run", num_classes=20, test_per_class=2)
    vectors = rng.normal(size=(20, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.savez(tmp_path / "run" / "prototypes.npz", prototypes=vectors)
    found = nearest_prototypes(read_run(tmp_path / "run"), np.array([3, 19]))
    for class_id, neighbours in found.items():
        cosines = {i: float(vectors[class_id] @ vectors[i]) for i in range(20) if i != class_id}
        expected = sorted(cosines.items(), key=lambda item: -item[1])[:3]
        rounding.assert_same_top(neighbours, expected, atol=rounding.sums_apart(8))


def test_several_prototypes_a_class_of_an_older_run_are_left_out(tmp_path, rng):
    report_fixtures.make_run(tmp_path / "run", num_classes=20, test_per_class=2)
    vectors = rng.normal(size=(25, 8)).astype(np.float32)
    np.savez(tmp_path / "run" / "prototypes.npz", prototypes=vectors)
    assert nearest_prototypes(read_run(tmp_path / "run"), np.array([3])) == {}


def test_vectors_are_rows_of_numbers(tmp_path, rng):
    path = tmp_path / "a.npz"
    array = rng.normal(size=(100, 3)).astype(np.float32)
    np.savez(path, a=array, flat=array[0], text=np.array([["x"]]), nan=array * np.nan)
    np.testing.assert_array_equal(read_vectors(path, "a", num_rows=100), array)
    with pytest.raises(UserError, match="its array 'a' has 100 rows, 9 are due"):
        read_vectors(path, "a", num_rows=9)
    with pytest.raises(UserError, match="has no array 'b', only a, flat"):
        read_vectors(path, "b")
    for name in ("flat", "text", "nan"):
        with pytest.raises(UserError, match=f"its array '{name}' is not one vector of numbers"):
            read_vectors(path, name)


def test_map_keeps_neighbours_and_never_changes(rng):
    from sklearn.manifold import trustworthiness

    centres = rng.normal(size=(12, 20))
    labels = np.repeat(np.arange(12), 20)
    points = centres[labels] + 0.15 * rng.normal(size=(240, 20))
    flat = embedding_map(points)
    assert flat.shape == (240, 2) and flat.min() >= 0 and flat.max() <= 1
    assert trustworthiness(points, flat, n_neighbors=10) > 0.93
    distances = ((flat[:, None] - flat[None]) ** 2).sum(-1) + 9 * np.eye(240)
    assert (labels[distances.argmin(axis=1)] == labels).mean() > 0.97
    np.testing.assert_array_equal(flat, embedding_map(points))


@pytest.mark.parametrize("points", [1, 2, 5, 13])
def test_map_of_few_or_equal_points_is_finite(points):
    assert np.isfinite(embedding_map(np.ones((points, 4)))).all()
    assert np.isfinite(embedding_map(np.eye(points, max(points, 2)))).all()
    assert embedding_map(np.ones((points, 1))).shape == (points, 2)


def test_chosen_images_are_whole_classes_of_every_band(rng):
    bands = np.repeat([0, 1, 2], [5, 200, 3000]).astype(np.int8)
    labels = rng.permutation(np.repeat(np.arange(3205), 10))
    rows = chosen_images(labels, bands)
    assert len(rows) <= MOST_POINTS and len(np.unique(rows)) == len(rows)
    per_band = np.bincount(bands[labels[rows]], minlength=3)
    assert per_band[0] == 5 * 8 and per_band.min() > 0 and per_band[1] > 250
    few = chosen_images(np.array([0, 0, 1]), np.array([0, 2], np.int8))
    np.testing.assert_array_equal(few, [0, 1, 2])


def test_axes():
    axis = charts.linear_axis(0, 0.31, title="")
    assert axis.low <= 0 and axis.high >= 0.31 and 3 <= len(axis.ticks) <= 6
    assert [text for _, text in axis.ticks] == ["0.0", "0.1", "0.2", "0.3", "0.4"]
    narrow = charts.log_axis(13, 700, title="")
    assert [text for _, text in narrow.ticks] == ["20", "50", "100", "200", "500"]
    log = charts.log_axis(1, 1_000_000, title="")
    assert [text for _, text in log.ticks] == ["1", "10", "100", "1,000", "10k", "100k", "1M"]
    np.testing.assert_allclose(log.place([1, 0.1]), [0, 0])
    assert charts.linear_axis(2, 2, title="").place(2) == 500
    steps = np.arange(1, 5001)
    xs, ys = charts.thinned(steps, np.where(steps == 7, np.nan, steps * 2.0))
    assert len(xs) <= 241 and ys[-1] == 10000
    np.testing.assert_allclose(ys, 2 * xs)


def test_markup_escapes_what_is_not_markup():
    made = markup.element("p", '<a href="x">', ["&", None], class_='a"b', data_x=1)
    assert made == (
        '<p class="a&quot;b" data-x="1">&lt;a href=&quot;x&quot;&gt;&amp;</p>'
    )  # fmt: skip
    assert markup.percent(0.12345) == "12.3\u202f%" and markup.percent(None) is None
    assert markup.points(-0.012) == "\u22121.2" and markup.points(-0.0001) == "0.0"


def test_colours_have_contrast_in_both_modes():
    light, dark, _ = re.findall(r":root\{([^}]*)\}", STYLE)
    light = dict(re.findall(r"--(\w+):(#\w+)", light))
    dark = {**light, **dict(re.findall(r"--(\w+):(#\w+)", dark))}
    for colours in (light, dark):
        for text in ("ink", "soft", "good", "bad"):
            for ground in ("ground", "panel"):
                assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        for mark in ("all", "many", "medium", "few", "mark"):
            assert _contrast(colours[mark], colours["ground"]) >= 3, mark


def _contrast(one, two):
    """WCAG 2.1, "contrast ratio"."""
    lights = []
    for colour in (one, two):
        parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        lights.append(linear @ [0.2126, 0.7152, 0.0722])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


PROBE = """
<iframe style="border:0;width:%dpx;height:900px"></iframe><pre id="probe"></pre><script>
var frame=document.querySelector('iframe');
frame.onload=function(){var doc=frame.contentDocument,win=frame.contentWindow;
var dot=doc.querySelector('#size path.dot'),box=dot.getBoundingClientRect();
dot.dispatchEvent(new win.PointerEvent('pointermove',{bubbles:true,clientX:20,clientY:20}));
var scroll=doc.querySelector('.plot svg').getBoundingClientRect();
document.getElementById('probe').textContent=JSON.stringify({
width:win.innerWidth,scrollWidth:doc.documentElement.scrollWidth,
heading:doc.querySelector('h1').innerText,
sections:[].map.call(doc.querySelectorAll('main section'),function(s){return s.id}),
hacked:win.hacked===1,names:doc.body.innerText.indexOf('<script>window.hacked')>=0,
broken:[].filter.call(doc.images,function(i){return !i.naturalWidth}).length,
images:doc.images.length,loaded:win.performance.getEntriesByType('resource').filter(
function(e){return e.name.indexOf('data:')}).length,
tip:doc.getElementById('tip').hidden?'':doc.getElementById('tip').textContent,
chart:[scroll.width,scroll.height],
outside:[].filter.call(doc.querySelectorAll('main *, header *'),function(e){
return !e.closest('.scroll')&&!e.closest('svg')&&e.getBoundingClientRect().right>win.innerWidth+1
}).map(function(e){return e.tagName+'.'+e.className})})};frame.srcdoc=%s
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found: apt-get install chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_page_in_a_browser(made, tmp_path, width):
    page = json.dumps(made[2]).replace("</", "<\\/").replace("<!--", "<\\!--")
    (tmp_path / "probe.html").write_text(
        "<!DOCTYPE html><meta charset=utf-8>" + PROBE % (width, page), encoding="utf-8"
    )
    dumped = waiting.run(
        [CHROMIUM, *CHROMIUM_FLAGS, f"--user-data-dir={tmp_path / 'profile'}",
         "--window-size=1400,1000", "--dump-dom",
         (tmp_path / "probe.html").as_uri()],
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert dumped.returncode == 0, dumped.stderr
    probe = re.search(r'<pre id="probe">(.*?)</pre>', dumped.stdout, re.S).group(1)
    seen = json.loads(html.unescape(probe))
    assert seen["width"] == width and seen["scrollWidth"] <= width, seen
    assert seen["outside"] == []
    assert seen["heading"].replace("\u202f", " ").endswith("training images")
    assert seen["sections"] == list(SECTIONS)
    assert not seen["hacked"] and seen["names"]
    assert seen["images"] > 20 and seen["broken"] == 0 and seen["loaded"] == 0
    assert re.fullmatch(r".+\n\d+ training images?, \d+.% of 6 test images", seen["tip"])
    assert seen["chart"][0] > 200 and seen["chart"][1] > 100

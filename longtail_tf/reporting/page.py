"""The shell of a page: head, top, sections, footer; nothing is ever loaded from elsewhere."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from collections.abc import Sequence

from longtail_tf.reporting.html import PLACE_MARK, Html, element, join
from longtail_tf.reporting.style import SCRIPT, STYLE

# Where an element stands: all that ever stands in a style.
_PLACES = re.compile(PLACE_MARK + r'="((?:[a-z-]+:-?[0-9.]+%;?)+)"')


@dataclasses.dataclass(frozen=True)
class Section:
    """One part of a page.

    Attributes:
      anchor: its name in links.
      title: its heading.
      words: what it says and how to read it; text or markup.
      body: charts and tables.
    """

    anchor: str
    title: str
    words: str | Html | list
    body: Html | list


@dataclasses.dataclass(frozen=True)
class Missing:
    """A part that could not be made, and why, in a sentence."""

    title: str
    sentence: str


def page(
    title: str,
    top: Sequence[Html],
    sections: Sequence[Section | Missing],
    *,
    footer: str,
) -> Html:
    """The whole page as one HTML document.

    Args:
      title: of the browser's tab.
      top: what stands before the first section.
      sections: in order; those that are missing are listed at the end, with their sentences.
      footer: last line.
    """
    present = [section for section in sections if isinstance(section, Section)]
    missing = [section for section in sections if isinstance(section, Missing)]
    if missing:
        present.append(_left_out(missing))
    links = [element("a", section.title, href=f"#{section.anchor}") for section in present]
    body = element(
        "body",
        element("header", top, element("nav", links, aria_label="Contents"), class_="top"),
        element("main", [_section(section) for section in present]),
        element("footer", footer),
        element("script", Html(SCRIPT)),
    )
    places = _places(body)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(STYLE, places)),
        element("title", title),
        element("style", Html(STYLE)),
        element("style", Html(places)),
    )
    return join([Html("<!DOCTYPE html>\n"), element("html", head, body, lang="en"), Html("\n")])


def _places(body: Html) -> str:
    """The style sheet that puts each marked element in its place."""
    found = dict.fromkeys(_PLACES.findall(body))
    return "\n".join(f'[{PLACE_MARK}="{place}"]{{{place}}}' for place in found)


def _policy(*styles: str) -> str:
    """What the browser itself holds the page to, whatever a name in it might say.

    It works offline and leaks nothing, runs no script and follows no style but ours.
    """
    allowed = " ".join(map(_digest, styles))
    return (
        f"default-src 'none'; img-src data:; style-src {allowed}; script-src {_digest(SCRIPT)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _section(section: Section) -> Html:
    words = section.words
    if not isinstance(words, list):
        words = [element("p", words)]
    return element(
        "section",
        element("div", element("h2", section.title), words, class_="say"),
        element("div", section.body, class_="body"),
        id=section.anchor,
        aria_label=section.title,
    )


def _left_out(missing: Sequence[Missing]) -> Section:
    rows = []
    for part in missing:
        rows += [element("dt", part.title), element("dd", part.sentence)]
    return Section(
        "left-out",
        "Not in this report",
        "Parts whose inputs were not in the run folder.",
        element("dl", rows),
    )

"""HTML built from elements, so that text from outside cannot become markup.

Plain strings are escaped wherever they are put in; only what `element` or `Html` made is markup.
"""

from __future__ import annotations

import html as standard_html
import re
from collections.abc import Iterable, Sequence
from typing import Any

_VOID = frozenset(("br", "img", "meta"))
# A NUL or an escape in a class name is not allowed in HTML, not even escaped.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
LONGEST_NAME = 60


class Html(str):
    """Markup that is safe to put into a page as it stands."""

    __slots__ = ()


def escape(text: Any) -> Html:
    """Text with everything escaped that HTML would read as markup; `Html` stays as it is."""
    if isinstance(text, Html):
        return text
    return Html(standard_html.escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(text))))


PLACE_MARK = "data-at"


def element(tag: str, *children: Any, **attributes: Any) -> Html:
    """One element. `class_` becomes class, `aria_label` aria-label; None attributes are left out.

    Children that are None are left out; lists are flattened. A `style`, which no policy of a page
    allows in an element, becomes a mark that the page's style sheet has a rule for.
    """
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        name = PLACE_MARK if key == "style" else key.rstrip("_").replace("_", "-")
        written.append(f" {name}" if value is True else f' {name}="{escape(value)}"')
    opening = f"<{tag}{''.join(written)}>"
    if tag in _VOID:
        return Html(opening)
    return Html(f"{opening}{join(children)}</{tag}>")


def join(children: Iterable[Any]) -> Html:
    """Elements and texts behind one another."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        parts.append(join(child) if isinstance(child, (list, tuple)) else escape(child))
    return Html("".join(parts))


def class_name(text: str) -> Html:
    """A user-given name: kept apart from the reading direction around it, cut when very long."""
    text = str(text)
    shown = text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"
    return element("bdi", shown or "(no name)", title=text if shown != text else None)


def table(
    headers: Sequence[Any],
    rows: Iterable[Sequence[Any]],
    *,
    caption: str,
    text_columns: int = 1,
    kind: str = "",
    shown_caption: Any = None,
) -> Html:
    """A data table that scrolls inside its own box where the screen is narrow.

    Args:
      headers: column titles; the first column holds the row titles.
      rows: cells, text or `Html`; None is shown as a dash.
      caption: what the table holds; read out before it, shown above it.
      text_columns: so many columns from the left hold text; the others are right-aligned numbers.
      kind: extra class of the table.
      shown_caption: the caption with markup, where it needs some.
    """
    body = []
    for row in rows:
        cells = []
        for position, cell in enumerate(row):
            content = element("span", "–", class_="none") if cell is None else cell
            if position == 0:
                cells.append(element("th", content, scope="row"))
            else:
                cells.append(
                    element("td", content, class_=None if position < text_columns else "n")
                )
        body.append(element("tr", cells))
    head = [
        element("th", header, scope="col", class_=None if position < text_columns else "n")
        for position, header in enumerate(headers)
    ]
    whole = element(
        "table",
        element("caption", caption if shown_caption is None else shown_caption),
        element("thead", element("tr", head)),
        element("tbody", body),
        class_=kind or None,
    )
    return element("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def percent(share: float | None, digits: int = 1) -> str | None:
    """0.7421 -> "74.2 %"; None stays None."""
    return None if share is None else f"{100 * share:.{digits}f}\N{NARROW NO-BREAK SPACE}%"


def points(difference: float, digits: int = 1) -> str:
    """0.012 -> "+1.2", a difference of two shares in percentage points, with a real minus."""
    text = f"{100 * difference:+.{digits}f}"
    if float(text) == 0:
        text = f"{0:.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def whole(number: float) -> str:
    """12406 -> "12,406"."""
    return f"{int(round(number)):,}"


def counted(number: int, one: str, many: str | None = None) -> str:
    """(1, "class", "classes") -> "1 class", with thousands marked."""
    return f"{whole(number)} {one if number == 1 else (many or one + 's')}"


def decimal(number: float | None, digits: int = 3) -> str | None:
    """A plain number with a real minus; None stays None."""
    if number is None:
        return None
    return f"{number:.{digits}f}".replace("-", "\N{MINUS SIGN}")

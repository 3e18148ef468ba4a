"""Example images of the test set as small data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from longtail_tf.reporting.html import Html, element

SIDE_PX = 96
CRISP_UP_TO_PX = 32
JPEG_QUALITY = 80


class Pictures:
    """Reads test images of a data set and turns them into elements.

    Args:
      split: the test split; `read(rows)` gives uint8 images [B, H, W, C] or encoded bytes [B].
    """

    def __init__(self, split: Any) -> None:
        self._split = split

    def shots(self, rows: Sequence[int], alts: Sequence[str]) -> Html:
        """The images of `rows` side by side, each with its text for those who do not see it."""
        images = self._split.read(np.asarray(rows, np.int64)) if len(rows) else []
        made = [self._shot(image, alt) for image, alt in zip(images, alts)]
        return element("div", made, class_="shots")

    def _shot(self, image: Any, alt: str) -> Html:
        found = data_uri(image)
        if found is None:
            return element("span", class_="shot", role="img", aria_label=f"{alt} (not readable)")
        uri, is_crisp = found
        kind = "shot crisp" if is_crisp else "shot"
        return element("img", src=uri, alt=alt, class_=kind, width=64, height=64)


def data_uri(image: Any) -> tuple[str, bool] | None:
    """An image as a data URI of at most SIDE_PX a side.

    Args:
      image: uint8 [H, W, C] with 1 or 3 channels, or the bytes of an image file.

    Returns:
      The URI, and whether the image is so small that its pixels should stay sharp when enlarged;
      None where it cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        if isinstance(image, (bytes, np.bytes_)):
            with Image.open(io.BytesIO(bytes(image))) as file:
                file.draft("RGB", (SIDE_PX, SIDE_PX))  # JPEG decodes small at once
                picture: Image.Image = file.copy()
        else:
            pixels = np.asarray(image, np.uint8)
            picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError,
            Image.DecompressionBombError):  # fmt: skip
        return None
    picture = picture.convert("L" if picture.mode in ("L", "1", "I;16") else "RGB")
    is_crisp = max(picture.size) <= CRISP_UP_TO_PX
    picture.thumbnail((SIDE_PX, SIDE_PX))
    data = io.BytesIO()
    if is_crisp:
        picture.save(data, "PNG", optimize=True)
    else:
        picture.save(data, "JPEG", quality=JPEG_QUALITY)
    kind = "png" if is_crisp else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}", is_crisp

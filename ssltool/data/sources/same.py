"""Whether all processes see the same images."""

from __future__ import annotations

import platform

from ssltool.data.sources.base import Source
from ssltool.distributed.collectives import from_main, rank, world_size
from ssltool.errors import DataError


def common_fingerprint(source: Source, *, content: bool = False) -> str:
    """What identifies the images, which all processes have to see alike.

    Args:
        source: The images.
        content: See `ssltool.data.sources.base.Source.fingerprint`.

    Raises:
        DataError: This process sees others than the first one.
    """
    own = source.fingerprint(content=content)
    if from_main(lambda: own) != own:
        raise DataError(
            f"process {rank()} on {platform.node()} sees other images than process 0: "
            f"{source.description}; give all machines the same files under the same path"
        )
    return own


def require_same_images(*sources: Source) -> None:
    """Refuse, in several processes, images that are not the same in all of them.

    Raises:
        DataError: They are not.
    """
    for source in sources if world_size() > 1 else ():
        common_fingerprint(source)

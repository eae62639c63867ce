"""Which files are images, by name, and which folders and files are never part of a dataset."""

from __future__ import annotations

from ssltool.errors import UnreadableImage

# fmt: off
EXTENSIONS = frozenset([
    "avif", "bmp", "dcm", "dib", "dicom", "gif", "heic", "heif", "hif", "ico", "j2k", "jfif",
    "jp2", "jpe", "jpeg", "jpf", "jpg", "jpx", "mpo", "pbm", "pgm", "png", "pnm", "ppm", "tga",
    "tif", "tiff", "webp",
])
"""Extensions, in lower case, of images that can be decoded, some by a library that is an extra."""

ARRAYS = frozenset(["npy"])
"""Extensions of arrays, which are images where files are read as they are."""

_FOREIGN = frozenset([
    "3fr", "arw", "cr2", "cr3", "crw", "dcr", "dds", "dng", "emf", "eps", "erf",
    "exr", "hdr", "heics", "heifs", "iiq", "jng", "jxl", "jxr", "kdc", "mef",
    "mos", "mrw", "nef", "nrw", "orf", "pcx", "pef", "psb", "psd", "qoi", "raf", "raw", "rw2",
    "rwl", "sgi", "sr2", "srf", "srw", "svg", "svgz", "wdp", "wmf", "x3f", "xbm", "xcf", "xpm",
])
# fmt: on
# Images that cannot be decoded here. Some would be decoded wrongly: a raw photograph is a TIFF file
# whose first image is a thumbnail.

_SYSTEM = frozenset(
    [
        "@eadir",
        "__macosx",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "lost+found",
        "system volume information",
        "@recycle",
        "@recently-snapshot",
    ]
)

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


def extension_of(name: str) -> str:
    """Extension of a file name in lower case, without its dot; empty without one."""
    _, dot, extension = name.rpartition(".")
    return extension.lower() if dot else ""


def is_image(name: str, further: frozenset[str] = frozenset()) -> bool:
    """Whether a file is taken for an image, one that cannot be read here included.

    Args:
        name: Of the file.
        further: Extensions of images beside the usual ones.
    """
    extension = extension_of(name)
    return extension in EXTENSIONS or extension in _FOREIGN or extension in further


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or made by a system for itself, such as thumbnails."""
    return name.startswith(".") or name.lower() in _SYSTEM


def check_readable(name: str, head: bytes) -> None:
    """Refuse an image of a format that cannot be read here.

    Args:
        name: Name of the file.
        head: Its first bytes: a phone may call a JPEG file ``.HEIC``.

    Raises:
        UnreadableImage: With what to convert it to.
    """
    extension = extension_of(name)
    if extension in _FOREIGN and not head.startswith(_SIGNATURES):
        raise UnreadableImage(
            f"{extension.upper()} is not readable here; convert it to JPEG or PNG"
        )


def check_file(path: str) -> None:
    """As `check_readable`, for a file; nothing is read unless its name asks for it."""
    if extension_of(path) in _FOREIGN:
        try:
            with open(path, "rb", buffering=0) as file:
                head = file.read(16)
        except OSError:
            head = b""
        check_readable(path, head)

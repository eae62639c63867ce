"""URLs of images: which are accepted, how they are shown, and what they are relative to.

Imports no torch and opens nothing.
"""

from __future__ import annotations

import re
from urllib.parse import urljoin, urlsplit, urlunsplit

from ssltool.console import printable
from ssltool.data.sources.extras import need
from ssltool.errors import UsageError

_NEEDED = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs"}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_ZIP = "zip://"
_CHAIN = "::"
ENDINGS = (".tar", ".zip", ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
"""Endings, in lower case, of files that images can be read from, wherever they are."""


def is_url(spec: str) -> bool:
    """Whether a spec begins as a URL does: ``SCHEME://``."""
    return _URL.match(spec) is not None


def check_url(url: str) -> None:
    """Make sure that a URL can be opened here, without opening it.

    Raises:
        UsageError: Its scheme is none of ours, a library for it is missing, or it holds a
            password, which would be written to ``run.json``.
    """
    inner, outer = zip_parts(url)
    if inner is not None:
        if is_url(outer):
            check_url(outer)
        return
    scheme = _scheme(url)
    # Others of fsspec's would run commands, keep other caches, or chain several URLs.
    if scheme not in _NEEDED or _CHAIN in url:
        raise UsageError(
            f"{shown(url)} cannot be opened; type a URL of s3, gs, http or https, or "
            "zip://MEMBER::ZIP-FILE-OR-URL"
        )
    if "@" in urlsplit(url).netloc:
        raise UsageError(
            f"{shown(url)} was typed with a user name, which run.json would show; put it into "
            "~/.netrc, or the environment variables of the service, and type the URL without it"
        )
    for module in (_NEEDED[scheme], "fsspec"):
        need(module, f"{scheme}://")


def zip_parts(spec: str) -> tuple[str | None, str]:
    """Member and zip file of ``zip://MEMBER::FILE``; of other specs None, and the spec.

    Raises:
        UsageError: It has no zip file.
    """
    if not spec.lower().startswith(_ZIP):
        return None, spec
    inner, chain, outer = spec[len(_ZIP) :].partition(_CHAIN)
    if not chain or not outer:
        raise UsageError(
            f"{shown(spec)} names no zip file; type zip://MEMBER::FILE.zip, or FILE.zip alone"
        )
    return inner.strip("/"), outer


def shown(url: str) -> str:
    """A URL for people: without user, password, and the values of its query; printable."""
    inner, chain, outer = url.partition(_CHAIN)
    if chain:
        return f"{shown(inner)}{chain}{shown(outer)}"
    if not is_url(url):
        return printable(url)
    try:
        parts = urlsplit(url)
    except ValueError:  # an address with an unclosed bracket
        return f"{_scheme(url)}://..."
    host = parts.netloc.rpartition("@")[2]
    query = "..." if parts.query else ""
    return printable(urlunsplit((parts.scheme, host, parts.path, query, "")))


def joined(base: str, relative: str) -> str:
    """URL of a file from the URL of the file that names it.

    Raises:
        UsageError: It is not below the folder of ``base``.
    """
    scheme, _, rest = base.partition("://")
    # Only of some schemes it knows that paths are relative.
    url = urljoin(f"http://{rest.partition('?')[0]}", relative).replace("http", scheme, 1)
    folder = base.partition("?")[0].rpartition("/")[0] + "/"
    if not url.startswith(folder):
        raise UsageError(f"{printable(relative)} is not below {shown(folder)}")
    return url


def _scheme(url: str) -> str:
    match = _URL.match(url)
    assert match is not None
    return match[1].lower()

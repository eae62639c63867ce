"""Download what a URL names to a cache folder: ``s3://``, ``gs://``, ``http(s)://``, ``zip://``.

A file is fetched once, completely or not at all, and then read like any file of this machine, so
that order, ranks and exact resume need no server. Its modification time is not when it was fetched
but a digest of what the server says of the version (ETag, Last-Modified, checksum, size): a new
copy of the same version is the same file, in every identity that is made of sizes and times, and a
changed one is another. A server that says nothing of versions is asked for the file each time, and
the digest is of its bytes. Without a connection the copy that is there is used.

Of fsspec's chained file systems none is used: some read pickles.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ssltool.atomic import atomic_file
from ssltool.console import echo
from ssltool.data.sources.fingerprints import file_content
from ssltool.data.sources.locations import existing_file, expand_braces
from ssltool.data.sources.urls import check_url, is_url, shown, zip_parts
from ssltool.errors import DataError, UsageError

_VERSION_FIELDS = (
    *("ETag", "etag", "Last-Modified", "LastModified", "mtime", "updated", "generation"),
    *("Content-MD5", "md5Hash", "crc32c", "VersionId", "created"),
)
_THREADS = 8
_SILENT = 60.0  # seconds without a byte, after which a server counts as lost
_LARGE = 2**24  # bytes of a download that is announced


def cache_folder() -> Path:
    """Where downloads are kept: ``ssltool/remote`` in the user's cache folder.

    Raises:
        UsageError: The user has no home.
    """
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise UsageError("no folder for downloads; set XDG_CACHE_HOME") from error
    return cache / "ssltool" / "remote"


def fetch(url: str) -> list[str]:
    """The local copies of the files that a URL names, downloaded unless they are there.

    Args:
        url: With braces or, where a server lists its files, ``*``; or ``zip://MEMBER::FILE``.

    Raises:
        UsageError: It cannot be opened here, see `ssltool.data.sources.urls.check_url`.
        DataError: There is no such file, or it could not be fetched.
    """
    check_url(url)
    member, outer = zip_parts(url)
    if member is not None:
        return [_extracted(outer, member)]
    return fetch_all([each for part in expand_braces(url) for each in _listed(part)])


def fetch_all(urls: Sequence[str]) -> list[str]:
    """The local copies of several files, as `fetch`; several are downloaded at a time."""
    for url in urls:
        check_url(url)
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(_fetch_one, urls))


def local_zip(spec: str) -> str:
    """The zip file that a path or URL names, downloaded if it is remote."""
    if not is_url(spec):
        return existing_file(spec)
    paths = fetch(spec)
    if len(paths) > 1:
        raise UsageError(f"{shown(spec)} names {len(paths)} files; name one zip file")
    return paths[0]


def _fetch_one(url: str) -> str:
    path = _place(url)
    with _locked(path):
        system, remote = _file_system(url)
        try:
            about = system.info(remote)
        except Exception as error:  # of any of a dozen libraries
            if _is_gone(error):
                raise DataError(f"there is no file at {shown(url)}") from error
            if path.is_file():
                echo(f"{shown(url)} cannot be reached; its copy in {path.parent} is used", err=True)
                return str(path)
            raise DataError(f"cannot open {shown(url)}: {_reason(error, url)}") from error
        time_ns, size = _version(about), about.get("size")
        if time_ns is None or not _is_copy(path, size, time_ns):
            _download(system, remote, path, url, size, time_ns)
    return str(path)


def _is_gone(error: Exception) -> bool:
    """Whether a server answered that there is no such file.

    fsspec says so of every failure over HTTP, a lost connection among them.
    """
    if not isinstance(error, FileNotFoundError):
        return False
    of_http = type(error.__cause__).__module__.startswith("aiohttp")
    return not of_http or getattr(error.__cause__, "status", None) in (404, 410)


def _download(
    system: Any, remote: str, path: Path, url: str, size: int | None, time_ns: int | None
) -> None:
    if size is None or size >= _LARGE:
        much = f" ({size / 1e6:,.0f} MB)" if size else ""
        echo(f"downloading {shown(url)}{much} to {path.parent}", err=True)
    with atomic_file(path) as temporary:
        try:
            system.get_file(remote, str(temporary))
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DataError(f"cannot download {shown(url)}: {_reason(error, url)}") from error
        got = temporary.stat().st_size
        if size is not None and got != size:
            raise DataError(
                f"{shown(url)} ended after {got:,} of {size:,} bytes; type the same command again"
            )
        if time_ns is None:
            time_ns = _as_time(file_content(str(temporary)).hex())
        os.utime(temporary, ns=(time_ns, time_ns))


def _is_copy(path: Path, size: int | None, time_ns: int) -> bool:
    """Whether a file is a copy of this version."""
    try:
        status = path.stat()
    except OSError:
        return False
    return status.st_mtime_ns == time_ns and size in (None, status.st_size)


def _version(about: dict[str, Any]) -> int | None:
    """What a server says of a version of a file, as a time in nanoseconds; None if it says nothing:
    files of one size may differ.
    """
    said = [f"{name}={about[name]}" for name in _VERSION_FIELDS if about.get(name) is not None]
    if not said:
        return None
    return _as_time("\n".join([*said, f"size={about.get('size')}"]))


def _as_time(text: str) -> int:
    """A whole number of seconds within 68 years, from a text."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return (int.from_bytes(digest[:4]) >> 1) * 10**9


def _place(url: str) -> Path:
    """Where the copy of a file is: files of one remote folder share a folder."""
    parts = urlsplit(url)
    parent, _, name = parts.path.rpartition("/")
    key = "\n".join((parts.scheme, parts.netloc, parent, parts.query, parts.fragment))
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    return cache_folder() / digest[:20] / _safe(name)


def _safe(name: str) -> str:
    """A file name of plain characters that keeps names apart and their ending."""
    plain = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII).lstrip(".")
    if plain == name and len(name) < 150:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return f"{digest}-{plain[-100:]}"


def _listed(url: str) -> list[str]:
    """The files of a URL with ``*``, in the order of their names."""
    if "*" not in urlsplit(url).path:
        return [url]
    system, remote = _file_system(url)
    try:
        found = sorted(map(str, system.glob(remote)))
    except Exception as error:
        raise DataError(f"cannot list {shown(url)}: {_reason(error, url)}") from error
    if not found:
        raise DataError(f"no file at {shown(url)}")
    return [system.unstrip_protocol(path) for path in found]


def _file_system(url: str) -> tuple[Any, str]:
    """Fsspec's file system for a URL, and the path in it."""
    from fsspec.core import url_to_fs

    options: dict[str, Any] = {}
    if url.lower().startswith("http"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SILENT, sock_read=_SILENT)
        options["client_kwargs"] = {"timeout": timeout, "trust_env": True}  # ~/.netrc and proxies
    try:
        return url_to_fs(url, **options)  # type: ignore[no-any-return]
    except Exception as error:
        raise DataError(f"cannot open {shown(url)}: {_reason(error, url)}") from error


def _extracted(outer: str, member: str) -> str:
    """A member of a zip file, as a file of its own in the cache folder."""
    archive = local_zip(outer)
    status = os.stat(archive)
    source = os.path.realpath(archive)
    where = hashlib.sha256(f"{source}\n{member}".encode("utf-8", "surrogateescape")).hexdigest()
    path = cache_folder() / where[:20] / _safe(member.rpartition("/")[2])
    time_ns = _as_time(f"{status.st_size} {status.st_mtime_ns} {member}")
    with _locked(path):
        if _is_copy(path, None, time_ns):
            return str(path)
        try:
            with zipfile.ZipFile(archive) as file, atomic_file(path) as temporary:
                with file.open(member) as data, open(temporary, "wb") as copy:
                    shutil.copyfileobj(data, copy, 2**20)
                os.utime(temporary, ns=(time_ns, time_ns))
        except KeyError as error:
            raise DataError(f"{shown(outer)} has no member {shown(member)}") from error
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, zlib.error) as error:
            raise DataError(
                f"cannot read {shown(member)} of {shown(outer)}: {_reason(error, outer)}"
            ) from error
    return str(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time fetch a file: the others find the copy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows: the same file is fetched twice at worst
        yield
        return
    with open(path.with_name(f".{path.name}.lock"), "wb") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _reason(error: Exception, url: str) -> str:
    """What a library says, on one line, without the URL."""
    cause = error.__cause__ or error
    text = " ".join(str(cause).split()).replace(url, "the URL") or type(cause).__name__
    return re.sub(r"://[^/\s]*@", "://", re.sub(r"\?[^\s'\"]*", "", text))[:160]

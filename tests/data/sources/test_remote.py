"""URLs: one download, versions, ranges or none, faults in one line without credentials."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_server import serving
from made_shards import png, tar
from PIL import Image

from ssltool.data.sources.base import Source
from ssltool.data.sources.registry import open_source
from ssltool.data.sources.remote import fetch
from ssltool.data.sources.urls import check_url, joined, shown
from ssltool.data.specs import absolute_spec
from ssltool.errors import DataError, UsageError

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path, Any]]:
    """URL and folder of a server, and its handler."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "site"
    root.mkdir()
    with serving(root) as (url, handler):
        yield url, root, handler


def images(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 12), (number * 20, 0, 0)).save(root / name)
    return root


def shard(path: Path, start: int = 0) -> None:
    tar(path, {f"{number}.png": png(start + number) for number in range(4)})


def contents(source: Source) -> list[bytes]:
    return [source.content(index) for index in range(len(source))]


@pytest.mark.parametrize("ranges", [False, True])
def test_shards_are_downloaded_once(site: tuple[str, Path, Any], ranges: bool) -> None:
    url, root, handler = site
    handler.ranges = ranges
    for number in range(2):
        shard(root / f"{number}.tar", 10 * number)
    source = open_source(f"{url}/{{0..1}}.tar")
    assert contents(source) == contents(open_source(root))
    assert source.description == f"8 images in {url}/{{0..1}}.tar"
    gets = [line for line in handler.asked if line.startswith("GET")]
    again = open_source(f"{url}/{{0..1}}.tar")
    assert [line for line in handler.asked if line.startswith("GET")] == gets
    assert sorted(gets) == ["GET /0.tar", "GET /1.tar"]
    assert again.fingerprint() == source.fingerprint()


def test_identity_is_that_of_the_version_not_of_the_copy(site: tuple[str, Path, Any]) -> None:
    url, root, _ = site
    shard(root / "0.tar")
    os.utime(root / "0.tar", (10**9, 10**9))
    first = open_source(f"{url}/0.tar").fingerprint()
    os.unlink(fetch(f"{url}/0.tar")[0])
    assert open_source(f"{url}/0.tar").fingerprint() == first
    os.utime(root / "0.tar", (10**9 + 5, 10**9 + 5))
    assert open_source(f"{url}/0.tar").fingerprint() != first


@pytest.mark.parametrize("silent", [("Last-Modified",), ("Last-Modified", "Content-Length")])
def test_without_a_version_a_file_is_fetched_again(
    site: tuple[str, Path, Any], silent: tuple[str, ...]
) -> None:
    url, root, handler = site
    handler.silent = silent
    seen = []
    for start in (0, 100, 0):
        shard(root / "0.tar", start)
        source = open_source(f"{url}/0.tar")
        assert contents(source) == contents(open_source(root))
        seen.append(source.fingerprint())
    assert seen[0] == seen[2] != seen[1]


def test_without_a_connection_the_copy_is_used(
    site: tuple[str, Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, root, _ = site
    shard(root / "0.tar")
    with serving(root) as (address, _):
        url = f"{address}/0.tar"
        first = open_source(url).fingerprint()
    assert open_source(url).fingerprint() == first
    assert "cannot be reached; its copy in" in capsys.readouterr().err
    with pytest.raises(DataError, match="cannot open http") as caught:
        open_source(url.replace("0.tar", "1.tar"))
    assert "\n" not in str(caught.value)


def test_a_download_that_ends_early_leaves_nothing(site: tuple[str, Path, Any]) -> None:
    url, root, handler = site
    shard(root / "0.tar")
    handler.cut = True
    with pytest.raises(DataError, match=r"cannot download|ended after"):
        open_source(f"{url}/0.tar")
    handler.cut = False
    assert contents(open_source(f"{url}/0.tar")) == contents(open_source(root))


def test_what_is_not_there_is_one_line(site: tuple[str, Path, Any]) -> None:
    with pytest.raises(DataError, match=r"there is no file at http://127.*/0\.tar$"):
        open_source(f"{site[0]}/0.tar")
    with pytest.raises(DataError, match="there is no file at") as caught:
        open_source(f"{site[0]}/0.tar?key=secret")
    assert "secret" not in str(caught.value)


def test_zip_files_manifests_and_shards_in_a_zip_file(
    site: tuple[str, Path, Any], tmp_path: Path
) -> None:
    url, root, _ = site
    images(root, "a/1.png", "b/2.png")
    with zipfile.ZipFile(root / "x.zip", "w") as file:
        for name in ("a/1.png", "b/2.png"):
            file.write(root / name, f"in/{name}")
    folder = contents(open_source(images(tmp_path / "same", "a/1.png", "b/2.png")))
    assert contents(open_source(f"{url}/x.zip")) == folder
    inner = open_source(f"zip://in::{url}/x.zip")
    assert contents(inner) == folder
    assert inner.classes == ("a", "b")
    (root / "m.csv").write_text("path,label,split\na/1.png,u,train\nb/2.png,v,test\n")
    listed = open_source(f"{url}/m.csv")
    assert contents(listed) == folder
    assert listed.classes == ("u", "v")
    assert [listed.relative_path(i) for i in range(2)] == ["a/1.png", "b/2.png"]
    assert len(open_source(f"{url}/m.csv:train")) == 1
    assert len(open_source(f"{url}/m.csv", split="test")) == 1
    shard(tmp_path / "0.tar")
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as file:
        file.write(tmp_path / "0.tar", "s/0.tar")
    source = open_source(f"zip://s/0.tar::{tmp_path}/y.zip")
    assert contents(source) == contents(open_source(tmp_path / "0.tar"))
    with pytest.raises(DataError, match=r"has no member s/1\.tar"):
        open_source(f"zip://s/1.tar::{tmp_path}/y.zip")


@pytest.mark.parametrize("path", ["../x.png", "/etc/x.png", "a/../../x.png", "//other/x.png"])
def test_a_server_names_no_files_of_this_machine(site: tuple[str, Path, Any], path: str) -> None:
    url, root, _ = site
    (root / "d").mkdir()
    (root / "d" / "m.csv").write_text(f"path\n{path}\n")
    with pytest.raises(DataError, match=r"line 2: .* is not below http"):
        open_source(f"{url}/d/m.csv")


def test_object_stores_and_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store in memory in the place of S3, whose library needs a server."""
    memory = fsspec.get_filesystem_class("memory")

    class Store(memory):  # type: ignore[misc,valid-type]
        protocol = "s3"
        store: dict[str, Any] = {}
        pseudo_dirs = [""]

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return str(memory._strip_protocol(path.replace("s3://", "memory://")))

        def unstrip_protocol(self, name: str) -> str:
            return f"s3:/{self._strip_protocol(name)}"

    monkeypatch.setattr("ssltool.data.sources.urls._NEEDED", {"s3": "fsspec"})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fsspec.register_implementation("s3", Store, clobber=True)
    for number in range(2):
        shard(tmp_path / f"{number}.tar", 10 * number)
        Store().pipe(f"s3://bucket/x/{number}.tar", (tmp_path / f"{number}.tar").read_bytes())
    source = open_source("s3://bucket/x/*.tar")
    expected = open_source(f"{tmp_path}/{{0,1}}.tar")
    assert contents(source) == contents(expected)
    with pytest.raises(DataError, match=r"no file at s3://bucket/y/\*\.tar"):
        open_source("s3://bucket/y/*.tar")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/x.tar", "cannot be opened; type a URL of s3, gs, http or https"),
        ("filecache::http://host/x.tar", "no source of this kind|no shard at"),
        ("http://host/x.tar::filecache://y", "cannot be opened; type a URL"),
        ("https://user:pa55word@host/x.tar", "typed with a user name, which run.json would show"),
        ("zip://a::https://user:pa55word@host/x.zip", "typed with a user name"),
    ],
)
def test_refused_before_anything_is_opened(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        open_source(url)
    assert "pa55word" not in str(caught.value)


@settings(max_examples=40)
@given(
    user=st.text(st.characters(categories=("L", "N")), min_size=4).map("secret".__add__),
    path=st.text(st.characters(categories=("L", "N", "P", "S")), max_size=20),
)
def test_no_credential_is_shown(user: str, path: str) -> None:
    path = re.sub(r"[@:]", "", path)
    for url in (
        f"https://{user}:{user}@host/{path}",
        f"https://host/x.tar?key={user}",
        f"zip://a::https://{user}@host/{path}",
    ):
        assert user not in shown(url)
        assert "host" in shown(url)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssltool.data.sources.extras.find_spec", lambda name: None)
    for url, extra in (("https://h/x.tar", "remote"), ("s3://b/x.tar", "s3")):
        with pytest.raises(UsageError, match=rf"type pip install 'ssltool\[{extra}\]'"):
            check_url(url)


def test_urls_below_urls() -> None:
    assert joined("s3://b/d/m.csv", "x/1 2.png") == "s3://b/d/x/1 2.png"
    assert joined("https://h/d/m.csv?k=1", "1.png") == "https://h/d/1.png"
    for relative in ("../1.png", "/1.png", "https://other/1.png"):
        with pytest.raises(UsageError, match="is not below"):
            joined("https://h/d/m.csv", relative)


def test_specs_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    assert absolute_spec("s3://b/x.tar") == "s3://b/x.tar"
    assert absolute_spec("zip://a::x.zip") == f"zip://a::{tmp_path}/x.zip"
    assert absolute_spec("m.csv:train") == f"{tmp_path}/m.csv:train"
    assert absolute_spec("hf:d:train") == f"hf:{tmp_path}/d:train"
    assert absolute_spec("hf:owner/name:train") == "hf:owner/name:train"

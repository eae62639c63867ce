"""Raw shards: the same pixels, names, labels and training as the folder; damage and refusals."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from safetensors.numpy import load_file

from ssltool.data import pack as packing
from ssltool.data import pack_raw
from ssltool.data.options import PackOptions
from ssltool.data.pack import PackResult
from ssltool.data.sources.base import Source
from ssltool.data.sources.registry import open_source
from ssltool.data.sources.shard_index import INDEX
from ssltool.data.sources.survey import survey
from ssltool.errors import DataError, SslToolError, UnreadableImage, UsageError

QUIET = Console(quiet=True)


def pack(data: Path, to: Path, **options: Any) -> PackResult:
    given = {"format": "raw", "size": 24, "per_shard": 5, **options}
    return packing.pack(PackOptions(data=(str(data),), to=to, **given), QUIET)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve images of two classes, wide, tall and square, and a broken one among them."""
    generator = np.random.default_rng(0)
    for number in range(12):
        folder = tmp_path / "in" / ("cat" if number % 2 else "ant")
        folder.mkdir(parents=True, exist_ok=True)
        size = [(48, 36), (36, 49), (40, 40)][number % 3]
        pixels = generator.integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    (tmp_path / "in" / "cat" / "04.jpg").write_bytes(b"\xff\xd8nothing")
    return tmp_path / "in"


def read(source: Source, index: int, what: str, size: int) -> Any:
    """Pixels and aspect, or the reason why there are none."""
    try:
        return getattr(source, what)(index, size)
    except UnreadableImage as error:
        return str(error)


def test_every_image_is_as_in_the_folder(images: Path, tmp_path: Path) -> None:
    result = pack(images, tmp_path / "raw")
    assert (result.images, result.shards, result.classes) == (12, 3, ("ant", "cat"))
    assert [Path(name).name for name in result.skipped] == ["04.jpg"]
    plain, raw = open_source(images), open_source(tmp_path / "raw")
    assert len(plain) == len(raw) == 13
    assert plain.classes == raw.classes
    for index in range(13):
        assert raw.label(index) == plain.label(index)
        assert raw.relative_path(index) == plain.relative_path(index)
        for what in ("read", "read_whole"):
            expected, found = (read(source, index, what, 24) for source in (plain, raw))
            np.testing.assert_equal(found, expected)
    at_64, known = survey(plain), survey(raw)
    assert (known.mean, known.std, known.count) == (at_64.mean, at_64.std, 13)
    assert known.short_side == raw.short_side(0) == 24
    assert raw.read(0, 48).shape == (48, 48, 3)
    assert raw.image(0, 12).size == (16, 12)
    assert raw.image(2, 12).size == (12, 16)


def test_squares_alone_take_half(images: Path, tmp_path: Path) -> None:
    whole, square = (pack(images, tmp_path / f, framing=f) for f in ("whole", "square"))
    plain, raw = open_source(images), open_source(tmp_path / "square")
    assert whole.bytes - square.bytes > 8 * 24 * 24 * 3 * 0.9
    pixels, aspect = raw.read_whole(0, 24)
    assert aspect == 1
    assert (pixels == plain.read(0, 24)).all()


def test_a_shard_is_what_the_page_says(images: Path, tmp_path: Path) -> None:
    pack(images, tmp_path / "raw")
    shard = load_file(tmp_path / "raw" / "shard-0000.safetensors")
    assert shard["squares"].shape == (5, 24, 24, 3)
    assert len(shard["wholes"]) == (shard["aspects"] != 1).sum()
    assert shard["names"].tobytes()[: shard["ends"][0]] == b"ant/00.png"


def test_an_interrupted_packing_goes_on(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(images, tmp_path / "whole")
    plain, begun = pack_raw.write_raw_shard, []

    def stop(path: Path, *rest: Any) -> None:
        if begun:
            raise KeyboardInterrupt
        begun.append(path)
        plain(path, *rest)

    monkeypatch.setattr(pack_raw, "write_raw_shard", stop)
    with pytest.raises(KeyboardInterrupt):
        pack(images, tmp_path / "parts")
    with pytest.raises(DataError, match="was not finished"):
        open_source(tmp_path / "parts")
    with pytest.raises(UsageError, match="not the beginning of this packing"):
        pack(images, tmp_path / "parts", framing="square")
    monkeypatch.setattr(pack_raw, "write_raw_shard", plain)
    pack(images, tmp_path / "parts")
    contents = [
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("whole", "parts")
    ]
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 256}, "up to 128 px.*197 kB each; type --format jpeg"),
        ({"size": 100}, "enlarged images: the typical one has 36 px; type --size 36"),
        ({"quality": 80}, "--quality: no effect on raw shards"),
        ({"seed": 1}, "--seed: no effect on raw shards"),
        ({"format": "png", "framing": "square"}, "--framing: no effect with --format png"),
    ],
)
def test_refused(images: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pack(images, tmp_path / "raw", **options)


def test_the_size_on_disk_is_said_and_must_fit(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = PackOptions(data=(str(images),), to=tmp_path / "raw", format="raw")
    packing.pack(options, Console())
    assert "13 images of 32 px decoded: 0.1 MB" in capsys.readouterr().out
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(pack_raw.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UsageError, match=r"0\.0 MB are free.*--framing square"):
        pack(images, tmp_path / "other")


def test_a_shard_that_is_not_the_packed_one(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    pack(images, folder)
    path = folder / "shard-0001.safetensors"
    data, opened = path.read_bytes(), open_source(folder)
    opened.read(5, 24)
    path.write_bytes(data[:-1])
    with pytest.raises(UnreadableImage, match="changed since"):
        opened.read(5, 24)
    with pytest.raises(DataError, match=f"{len(data) - 1:,} bytes instead of {len(data):,}"):
        open_source(folder)
    for other in (data.replace(b"cat/", b"dog/"), b"\xff" * len(data), data[::-1]):
        path.write_bytes(other)
        with pytest.raises(UnreadableImage, match=r"changed since|damaged"):
            open_source(folder).read(5, 24)
    path.unlink()
    with pytest.raises(DataError, match=r"cannot read .*shard-0001"):
        open_source(folder)


@pytest.mark.parametrize("index", ["{", "[]", '{"format": "ssltool-raw-shards-1", "size": 24}'])
def test_a_damaged_index(images: Path, tmp_path: Path, index: str) -> None:
    pack(images, tmp_path / "raw")
    (tmp_path / "raw" / INDEX).write_text(index)
    with pytest.raises(SslToolError):
        open_source(tmp_path / "raw")


def test_the_fingerprint_is_of_names_and_times(images: Path, tmp_path: Path) -> None:
    pack(images, tmp_path / "raw")
    shutil.copytree(tmp_path / "raw", tmp_path / "copy")
    first, copy = open_source(tmp_path / "raw"), open_source(tmp_path / "copy")
    assert first.fingerprint() == copy.fingerprint()  # times are copied
    os.utime(tmp_path / "copy" / "shard-0000.safetensors")
    touched = open_source(tmp_path / "copy")
    assert touched.fingerprint() != first.fingerprint()
    assert touched.fingerprint().partition("-")[2] == first.fingerprint().partition("-")[2]
    assert touched.fingerprint(content=True) == first.fingerprint(content=True)


def test_values_are_refused(images: Path, tmp_path: Path) -> None:
    from ssltool.runs.images import open_training_images
    from ssltool.runs.options import RunOptions

    pack(images, tmp_path / "raw")
    with pytest.raises(SslToolError, match="no values but RGB"):
        open_training_images(RunOptions(data=(str(tmp_path / "raw"),), channels=4))


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("method", ["npid", "jigsaw"])
def test_training_gives_the_bytes_of_the_folder(images: Path, tmp_path: Path, method: str) -> None:
    """Random crops of whole images (npid) and center squares (jigsaw), with a broken image."""
    from ssltool.runs.config import RunConfig
    from ssltool.training.pretrain import pretrain

    pack(images, tmp_path / "raw", size=32)
    weights = []
    for data in (images, tmp_path / "raw"):
        given = {"data": (str(data),), "image_size": 32, "batch_size": 5, "steps": 4}
        given |= {"backbone": "resnet10_w32", "precision": "fp32"}
        given["out"] = tmp_path / f"run-{data.name}"
        pretrain(RunConfig.merged(method, given, None), console=QUIET)
        weights.append((tmp_path / f"run-{data.name}" / "encoder.safetensors").read_bytes())
    assert weights[0] == weights[1]

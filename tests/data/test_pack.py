"""Packing images into shards: what is written, read back and skipped, and interruptions."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ssltool.data import pack as packing
from ssltool.data.options import PackOptions
from ssltool.data.pack import PackResult, index
from ssltool.data.sources.base import Source
from ssltool.data.sources.registry import open_source
from ssltool.data.sources.shard_index import INDEX
from ssltool.data.sources.shards import UNFINISHED
from ssltool.errors import DataError, SslToolError, UsageError

QUIET = Console(quiet=True)


def pack(data: Path, to: Path, **options: Any) -> PackResult:
    return packing.pack(PackOptions(data=(str(data),), to=to, **options), QUIET)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve images of two classes and a broken one."""
    generator = np.random.default_rng(0)
    for number in range(12):
        folder = tmp_path / "in" / ("cat" if number % 2 else "ant")
        folder.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(generator.integers(0, 256, (6, 8, 3), np.uint8))
        small.resize((160, 120), Image.Resampling.BICUBIC).save(
            folder / f"{number}.jpg", quality=95
        )
    (tmp_path / "in" / "cat" / "broken.jpg").write_bytes(b"\xff\xd8nothing")
    return tmp_path / "in"


def files(folder: Path) -> dict[str, bytes]:
    """Files of a folder, but for the modification times in the index."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    if INDEX in found:
        found[INDEX] = re.sub(rb'"mtime_ns": \d+', b"", found[INDEX])
    return found


def test_packed_images_read_back_with_their_classes(images: Path, tmp_path: Path) -> None:
    to = tmp_path / "shards"
    result = pack(images, to, size=96, per_shard=5)
    assert (result.images, result.shards, result.classes) == (12, 3, ("ant", "cat"))
    assert [Path(name).name for name in result.skipped] == ["broken.jpg"]
    plain, packed = open_source([str(images)]), open_source([str(to)])
    assert packed.classes == plain.classes == ("ant", "cat")
    originals = {plain.relative_path(i): i for i in range(len(plain))}
    names = [packed.name(i).rpartition("/")[2] for i in range(4)]
    with tarfile.open(to / "shard-0000.tar") as shard:
        texts = [shard.extractfile(f"{name[:-4]}.json").read() for name in names]  # type: ignore[union-attr]
    for i, text in enumerate(texts):
        original = originals[json.loads(text)["file"]]
        assert packed.label(i) == plain.label(original)
        assert packed.image(i, 500).size == (128, 96)
        difference = np.abs(packed.read(i, 64).astype(int) - plain.read(original, 64).astype(int))
        assert difference.mean() < 4


def test_cls_is_the_place_in_the_classes_of_the_index(tmp_path: Path) -> None:
    for name in ("1", "2", "10", "broken", "cat"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (16, 16)).save(tmp_path / "in" / name / f"{number}.png")
    for path in (tmp_path / "in" / "broken").iterdir():
        path.write_bytes(b"")
    pack(tmp_path / "in", tmp_path / "s")
    for _ in range(2):  # as packed, and indexed again
        classes = json.loads((tmp_path / "s" / INDEX).read_text())["classes"]
        assert classes == ["1", "2", "10", "broken", "cat"]
        with tarfile.open(tmp_path / "s" / "shard-0000.tar") as tar:
            members = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
        keys = {name.partition(".")[0] for name in members}
        assert len(keys) == 8
        for key in keys:
            about = json.loads(members[f"{key}.json"])
            assert classes[int(members[f"{key}.cls"])] == about["class"]
            assert about["file"].startswith(about["class"] + "/")
        assert open_source(tmp_path / "s").classes == tuple(classes)
        index(tmp_path / "s", QUIET)


def divided(root: Path) -> Path:
    """Images of three classes; "b" is missing among the test images, which are smaller."""
    generator = np.random.default_rng(1)
    for split, classes, side in (("train", "abc", 40), ("test", "ac", 24)):
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                pixels = generator.integers(0, 256, (side, side, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def contents(source: Source) -> dict[str, tuple[bytes, str]]:
    """Pixels and class of each image by its path."""
    return {
        source.relative_path(i): (source.read(i, 16).tobytes(), source.classes[source.label(i)])
        for i in range(len(source))
    }


@pytest.mark.parametrize(("form", "size"), [("png", 64), ("raw", 16)])
def test_splits_stay_splits(tmp_path: Path, form: Any, size: int) -> None:
    data, to = divided(tmp_path / "in"), tmp_path / "shards"
    result = pack(data, to, format=form, size=size)
    assert (result.images, result.splits) == (15, {"train": 9, "test": 6})
    assert (result.shards, result.classes) == (2, ("a", "b", "c"))
    for split in ("train", "test"):
        packed, images = open_source(str(to), split=split), open_source(str(data), split=split)
        assert len(packed) == len(images)
        assert packed.classes == ("a", "b", "c")  # numbered alike
        assert {name for _, name in contents(packed).values()} == set(images.classes)
        assert sorted(contents(packed).values()) == sorted(contents(images).values())
    assert len(open_source(str(to))) == 15


def test_splits_are_not_put_beside_other_shards(tmp_path: Path) -> None:
    data, to = divided(tmp_path / "in"), tmp_path / "shards"
    pack(data / "train", to)
    with pytest.raises(UsageError, match=r"index.json, .*train, test get folders.*--overwrite"):
        pack(data, to)
    pack(data, to, overwrite=True)
    assert sorted(path.name for path in to.iterdir()) == ["test", "train"]
    with pytest.raises(UsageError, match="not empty"):
        pack(data / "train", to)


def test_an_interrupted_packing_of_splits_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, to = divided(tmp_path / "in"), tmp_path / "shards"
    pack(data, tmp_path / "whole", per_shard=2)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(packing, "_index_packed", stop)
        with pytest.raises(KeyboardInterrupt):
            pack(data, to, per_shard=2)
    pack(data, to, per_shard=2)
    for split in ("train", "test"):
        assert files(to / split) == files(tmp_path / "whole" / split)


def test_the_same_command_gives_the_same_bytes(images: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        pack(
            images,
            tmp_path / name,
            size=40,
            per_shard=5,
            workers=1 + (name == "b"),
        )
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_small_images_stay_lossless_and_are_not_enlarged(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in" / "gray.png")
    result = pack(tmp_path / "in", tmp_path / "out")
    assert result.classes == ()
    with tarfile.open(tmp_path / "out" / "shard-0000.tar") as shard:
        names = shard.getnames()
        stored = Image.open(io.BytesIO(shard.extractfile(names[0]).read()))  # type: ignore[union-attr]
    assert names == ["000000000.png", "000000000.json"]
    assert stored.mode == "L"
    assert (np.asarray(stored) == pixels).all()


def test_an_interrupted_packing_goes_on(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"size": 40, "per_shard": 5}
    pack(images, tmp_path / "whole", **options)
    to, plain, written = tmp_path / "stopped", packing._write, []

    def stop(tar: tarfile.TarFile, sample: packing._Sample) -> None:
        if len(written) == 7:
            raise KeyboardInterrupt
        written.append(sample.key)
        plain(tar, sample)

    monkeypatch.setattr(packing, "_write", stop)
    with pytest.raises(KeyboardInterrupt):
        pack(images, to, **options)
    assert sorted(files(to)) == [UNFINISHED, "shard-0000.tar"]
    with pytest.raises(DataError, match="was not finished"):
        open_source([str(to)])
    with pytest.raises(UsageError, match="not the beginning of this packing"):
        pack(images, to, size=41, per_shard=5)
    monkeypatch.setattr(packing, "_write", plain)
    pack(images, to, **options)
    assert files(to) == files(tmp_path / "whole")


def test_what_is_there_is_not_overwritten_unasked(images: Path, tmp_path: Path) -> None:
    to = tmp_path / "shards"
    pack(images, to, size=40)
    with pytest.raises(UsageError, match="--overwrite"):
        pack(images, to, size=40)
    assert pack(images, to, size=50, per_shard=9, overwrite=True).shards == 2
    (to / "mine.txt").touch()
    with pytest.raises(UsageError, match="another --to"):
        pack(images, to, size=40, overwrite=True)
    with pytest.raises(UsageError, match="is a file"):
        pack(images, to / "mine.txt")


def test_nothing_readable(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").touch()
    with pytest.raises(DataError, match=r"none of the 1 images.*a\.jpg: empty file"):
        pack(tmp_path / "in", tmp_path / "out")


def test_index_of_foreign_shards(images: Path, tmp_path: Path) -> None:
    pack(images, tmp_path / "s", size=40)
    kept = files(tmp_path / "s")
    for path in (tmp_path / "s").glob("*index*"):
        path.unlink()
    result = index(tmp_path / "s", QUIET)
    assert (result.shards, result.images, result.classes) == (1, 12, ("ant", "cat"))
    assert files(tmp_path / "s") == kept


@pytest.mark.parametrize("folder", ["gone", "."])
def test_nothing_to_index(folder: str, tmp_path: Path) -> None:
    with pytest.raises(SslToolError, match=r"no folder|no \.tar"):
        index(tmp_path / folder, QUIET)


@pytest.mark.slow
@pytest.mark.ci
def test_pretraining_on_shards_resumes_to_the_same_bytes(images: Path, tmp_path: Path) -> None:
    from ssltool.runs.config import RunConfig
    from ssltool.training.pretrain import pretrain

    pack(images, tmp_path / "s", size=32, per_shard=5)

    given = {
        "out": str(tmp_path / "whole"),
        "steps": 5,
        "data": (str(tmp_path / "s"),),
        "batch_size": 5,
        "keep": 9,
    }
    given |= {
        "backbone": "resnet10_w32",
        "fc6": 16,
        "fc7": 16,
        "permutations": 20,
        "checkpoint_every": 3,
        "precision": "fp32",
    }
    pretrain(RunConfig.merged("jigsaw", given, None), console=QUIET)
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(
        tmp_path / "parts" / "checkpoints" / "step-0000005"
    )  # back to step 3, in the second epoch
    (tmp_path / "parts" / "encoder.safetensors").unlink()
    pretrain(
        RunConfig.merged("jigsaw", {"out": str(tmp_path / "parts")}, None),
        resume=True,
        console=QUIET,
    )
    weights = [
        (tmp_path / name / "encoder.safetensors").read_bytes() for name in ("whole", "parts")
    ]
    assert weights[0] == weights[1]

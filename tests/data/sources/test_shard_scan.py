"""What the members of a tar shard are: images, labels, links and what is left out."""

from __future__ import annotations

import io
import posixpath
import tarfile
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_shards import fails, numbered, png, reds, tar

from ssltool.data.sources import shard_scan
from ssltool.data.sources.registry import open_source
from ssltool.data.sources.shard_scan import scan
from ssltool.errors import DataError, UnreadableImage


def test_labels_and_masks_belong_to_the_image_of_their_key(tmp_path: Path) -> None:
    path = tar(
        tmp_path / "a.tar",
        {
            "x.y/one.cls": b"7\n",  # the class may come first
            "x.y/one.jpg.txt": b"no image",
            "x.y/one.png": png(1),
            "x.y/one.mask.png": png(99),  # one image per sample
            "x.y/two.seg.PNG": png(2),
            "x.y/two.json": b'{"label": "cat"}',
            "x.y/two.cls": b"3",  # a name wins over a number
            "three.png": png(3),
            "four.json": b"{broken",
            "four.png": png(4),
            "five.json": b'{"label": "no image"}',
        },
    )
    source = open_source([str(path)])
    assert reds(source) == [1, 2, 3, 4]
    assert source.classes == ("7", "cat")
    assert [source.label(index) for index in range(4)] == [0, 1, None, None]
    assert source.notes == (
        "images left out, perhaps masks, because another has their key: 1",
        "labels without an image: 1",
        "members left out that are neither image nor label: 1",
    )


def test_numeric_classes_are_in_numerical_order(tmp_path: Path) -> None:
    members = {
        f"{n}.{ending}": data
        for n in (10, 9, 2)
        for ending, data in (("png", png(n)), ("cls", b"%d" % n))
    }
    assert open_source([str(tar(tmp_path / "a.tar", members))]).classes == ("2", "9", "10")


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_odd_names(tmp_path: Path, form: int) -> None:
    source = open_source(
        [
            str(
                tar(
                    tmp_path / "a.tar",
                    {"d" * 200 + "/é.png": png(5), "new\nline.png": png(6)},
                    form,
                )
            )
        ]
    )
    assert reds(source) == [5, 6]
    assert source.name(0).endswith("d/é.png")
    assert source.name(1).isprintable()


def test_names_with_dots_are_images_of_their_own(tmp_path: Path) -> None:
    members = {f"scan.2024.{n:02d}.png": png(n) for n in range(12)}
    source = open_source(tar(tmp_path / "a.tar", members))
    assert (reds(source), source.notes) == (list(range(12)), ())
    numbered_copies = {f"img{end}.png": png(n) for n, end in enumerate(("", ".1", ".2"))}
    assert reds(open_source(tar(tmp_path / "b.tar", numbered_copies))) == [0, 1, 2]


def test_images_of_one_sample_without_a_main_one_share_its_label(tmp_path: Path) -> None:
    members = {"1.left.png": png(1), "1.right.png": png(2), "1.cls": b"cat", "2.png": png(3)}
    source = open_source(tar(tmp_path / "a.tar", members))
    assert [source.label(i) for i in range(len(source))] == [0, 0, None]


def test_labels_need_not_be_beside_their_images(tmp_path: Path) -> None:
    images = {f"./x/{n}.a.png": png(n) for n in range(4)}
    labels = {f"x/{n}.a.cls": str(n % 2).encode() for n in range(4)}
    source = open_source(tar(tmp_path / "a.tar", {**images, **labels}))
    assert (reds(source), source.notes) == ([0, 1, 2, 3], ())
    assert [source.label(i) for i in range(4)] == [0, 1, 0, 1]
    assert source.relative_path(0) == "x/0.a.png"
    assert source.path(0) == f"{tmp_path}/a.tar/./x/0.a.png"


def test_a_second_image_of_a_key_is_counted(tmp_path: Path) -> None:
    source = open_source(tar(tmp_path / "a.tar", {"1.jpg": png(1), "1.png": png(2)}))
    assert (len(source), len(source.notes)) == (1, 1)
    assert source.notes[0].endswith("because another has their key: 1")


def add(file: tarfile.TarFile, name: str, data: bytes = b"", **values: Any) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    for key, value in values.items():
        setattr(header, key, value)
    file.addfile(header, io.BytesIO(data))


def test_a_name_that_comes_twice_is_two_images(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as file:  # as of two archives appended
        for value in (1, 2):
            add(file, "0.png", png(value))
            add(file, "0.cls", str(value).encode())
    source = open_source(tmp_path / "a.tar")
    assert reds(source) == [1, 2]
    assert [source.label(i) for i in range(2)] == [0, 1]


def test_links_are_followed_or_counted(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        add(file, "d/1.png", png(1))
        add(file, "d", type=tarfile.DIRTYPE)
        add(file, "hard.png", type=tarfile.LNKTYPE, linkname="d/1.png")
        add(file, "d/soft.png", type=tarfile.SYMTYPE, linkname="../later.png")
        add(file, "twice.png", type=tarfile.SYMTYPE, linkname="d/soft.png")
        add(file, "gone.png", type=tarfile.SYMTYPE, linkname="/elsewhere/1.png")
        add(file, "self.png", type=tarfile.SYMTYPE, linkname="self.png")
        add(file, "later.png", png(7))
        add(file, "pipe.png", type=tarfile.FIFOTYPE)
        add(file, "hard.cls", b"cat")
    source = open_source(tmp_path / "a.tar")
    assert reds(source) == [1, 1, 7, 7, 7]
    assert [source.label(i) for i in range(5)] == [None, 0, None, None, None]
    assert source.notes == ("links left out that lead to no member: 2",)


def test_hidden_system_and_foreign_members(tmp_path: Path) -> None:
    members = {"1.png": png(1), "._1.png": b"x", "__MACOSX/2.png": b"x", "a/.x/3.png": b"x"}
    source = open_source(tar(tmp_path / "a.tar", {**members, "4.jxl": b"jxl"}))
    assert len(source) == 2
    assert source.notes == ("members left out that are hidden or made by a system for itself: 3",)
    with pytest.raises(UnreadableImage, match="JXL is not readable here"):
        source.read(1, 8)


def test_classes_in_a_shard_are_in_nfc(tmp_path: Path) -> None:
    members = {"1.png": png(1), "1.cls": "cafe\u0301".encode()}
    members |= {"2.png": png(2), "2.json": '{"class": "caf\u00e9"}'.encode()}
    assert open_source(tar(tmp_path / "a.tar", members)).classes == ("caf\u00e9",)


def test_a_damaged_header_is_not_the_end(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {f"{n}.png": png(n) for n in range(4)})
    whole = bytearray(path.read_bytes())
    whole[2 * 1024 + 20] ^= 1  # in the third header
    path.write_bytes(whole)
    assert "is damaged at byte 2048" in fails(DataError, path)


def test_data_after_the_end_and_a_missing_end_are_said(tmp_path: Path) -> None:
    first = tar(tmp_path / "a.tar", {"1.png": png(1)}).read_bytes()
    (tmp_path / "b.tar").write_bytes(first + first)
    assert open_source(tmp_path / "b.tar").notes == (
        "shards with more data after their end, which is not read: 1",
    )
    (tmp_path / "c.tar").write_bytes(first[:1024])
    assert open_source(tmp_path / "c.tar").notes == (
        "shards without an end marker, perhaps cut off: 1",
    )


def test_a_shard_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train-0000.tar"
    numbered(tmp_path, [4])
    whole = path.read_bytes()
    path.write_bytes(whole[: 3 * 1024 + 520])
    assert "train-0000.tar" in fails(DataError, path)


WORDS = st.sampled_from(["a", "b", "1", "2", "seg"])
NAMES = st.builds(
    lambda folder, parts, ending: f"{folder}{'.'.join(parts)}.{ending}",
    st.sampled_from(["", "./", "x/", "x.y/", ".h/"]),
    st.lists(WORDS, min_size=1, max_size=3),
    st.sampled_from(["png", "jpg", "cls", "json", "txt", "heic"]),
)


@settings(max_examples=60)
@given(st.lists(NAMES, min_size=1, max_size=12))
def test_every_member_is_an_image_a_label_or_counted(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tar"
        with tarfile.open(path, "w") as file:
            add(file, "main.png", png(1))
            for number, name in enumerate(names):
                add(file, name, f"class {number}".encode())
        table = scan(str(path))
    labels = {name for name in names if name.endswith((".cls", ".json")) and ".h/" not in name}
    unused = table.left_out.pop("labels without an image", 0)
    label_count = sum(name in labels for name in names)
    assert len(table) + sum(table.left_out.values()) + label_count == len(names) + 1
    assert unused <= len(labels)
    members = [name for name in ["main.png", *names] if name.endswith((".png", ".jpg", ".heic"))]
    found = [table.name(index) for index in range(len(table))]
    assert Counter(found) <= Counter(members)
    for index, name in enumerate(found):  # a label is of the image's key or a beginning of it
        if table.labels[index] >= 0:
            label = names[int(table.classes[table.labels[index]].split()[1])]
            key = posixpath.normpath(label).rpartition(".")[0]
            assert f"{posixpath.normpath(name)}.".startswith(f"{key}.")


def images_of(path: Path) -> int:
    """Number of images in a tar file; 0 if it is refused."""
    try:
        return len(scan(str(path)))
    except DataError:
        return 0


def header_of(name: str, *, size: bytes, kind: bytes = b"0") -> bytes:
    """A header block with a size field as given and a right checksum."""
    block = bytearray(tarfile.TarInfo(name).tobuf())
    block[124:136] = size.ljust(12, b"\0")
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("kind", [b"0", b"5", b"x", b"g", b"L", b"K", b"S", b"V"])
@pytest.mark.parametrize("size", [-512, -1024, -1, 2**62, 2**80])
def test_sizes_that_lead_backwards_or_beyond_the_end_are_refused(
    size: int, kind: bytes, tmp_path: Path
) -> None:
    """Tarfile follows a negative size to the same header again and again."""
    path = tmp_path / "a.tar"
    field = (b"\xff" if size < 0 else b"\x80") + size.to_bytes(11, "big", signed=True)
    first = header_of("0.png", size=b"%011o" % 512) + bytes(512)
    path.write_bytes(first + header_of("1.png", size=field, kind=kind) + bytes(1024))
    assert images_of(path) <= 2


@pytest.mark.parametrize(
    "fields", [b"a", b"9" * 5000, b"-1\n", b"2\n1\n", b"10000000000\n" + b"1\n" * 200]
)
def test_sparse_maps_that_are_damaged_are_refused_or_left_out(
    fields: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "a.tar"
    pax = b"".join(
        b"%d %s=%s\n" % (len(name) + len(value) + 5, name, value)
        for name, value in (
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.realsize", b"99"),
        )
    )
    data = fields.ljust(512, b"\0")[:512]
    path.write_bytes(
        header_of("h", size=b"%011o" % len(pax), kind=b"x")
        + pax.ljust(512, b"\0")
        + header_of("1.png", size=b"%011o" % 512)
        + data
        + bytes(1024)
    )
    assert images_of(path) <= 1


def test_a_label_that_is_larger_than_any_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_scan, "_LARGEST_LABEL", 10)
    path = tar(tmp_path / "a.tar", {"1.png": png(1), "1.cls": b"x" * 11})
    assert scan(str(path)).left_out == {"labels left out that are larger than 64 MB": 1}

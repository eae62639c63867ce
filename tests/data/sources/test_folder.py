"""Sources: what a walk lists and in which order, labels, fingerprints, messages and the survey."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssltool.data.sources.base import Source
from ssltool.data.sources.class_names import class_order
from ssltool.data.sources.demo import DemoSource
from ssltool.data.sources.folder import FolderSource
from ssltool.data.sources.joined import JoinedSource
from ssltool.data.sources.locations import DEMO_COUNT
from ssltool.data.sources.registry import open_source
from ssltool.data.sources.survey import survey
from ssltool.errors import DataError, SslToolError, UnreadableImage, UsageError

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs links and file names of POSIX")


def put(
    root: Path, *names: str, color: tuple[int, int, int] = (200, 100, 50), side: int = 12
) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side), color).save(root / name)


def listed(source: Source, root: Path) -> list[str]:
    return [
        os.path.relpath(source.name(index), root).replace(os.sep, "/")
        for index in range(len(source))
    ]


def message(kind: type[SslToolError], spec: object) -> str:
    with pytest.raises(kind) as caught:
        open_source([str(spec)])
    assert type(caught.value) is kind
    text = str(caught.value)
    assert text.isprintable()  # so on one line
    return text


# The walk


def test_order_is_by_relative_path_at_any_depth(tmp_path: Path) -> None:
    names = [
        "b/2.png",
        "a/deep/er/9.png",
        "a/1.png",
        "root.png",
        "a.b/3.png",
        "B/1.PNG",
        "a/10.png",
        "é/1.png",
    ]
    random.Random(0).shuffle(names)
    put(tmp_path, *names)
    assert listed(FolderSource(tmp_path), tmp_path) == sorted(names)


def test_order_does_not_depend_on_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, *[f"{folder}/{number}.png" for folder in "abc" for number in range(5)])
    expected = FolderSource(tmp_path).fingerprint()
    plain = os.scandir

    class Reversed:
        def __init__(self, path: str) -> None:
            self.entries = plain(path)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return list(self.entries)[::-1]

        def __exit__(self, *error: object) -> None:
            self.entries.close()

    monkeypatch.setattr(os, "scandir", Reversed)
    assert FolderSource(tmp_path).fingerprint() == expected


def test_hidden_and_other_files_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "a/.2.png", ".hidden/3.png", "a/.deep/4.png")
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "png").write_text("x")
    (tmp_path / "folder.png").mkdir()
    assert listed(FolderSource(tmp_path), tmp_path) == ["a/1.png"]


@posix
def test_loops_of_links_end(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "a/b/2.png")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    source = FolderSource(tmp_path)
    assert [name for name in listed(source, tmp_path) if name != "self.png"] == [
        "a/1.png",
        "a/b/2.png",
    ]
    assert source.unlisted == {}


@posix
def test_a_linked_folder_is_followed_once(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    put(outside, "1.png", "sub/2.png")
    put(root, "z/3.png")
    (root / "a").symlink_to(outside)
    (root / "b").symlink_to(outside)
    (root / "c").symlink_to(
        root / "z"
    )  # the real folder has precedence, though its name comes later
    source = FolderSource(root)
    assert listed(source, root) == ["a/1.png", "a/sub/2.png", "z/3.png"]
    assert source.classes == ("a", "z")
    assert source.notes == ("left out links to folders read already (2): b, c",)


@posix
def test_linked_files_and_a_linked_root(tmp_path: Path) -> None:
    put(tmp_path, "real/1.png")
    (tmp_path / "real" / "2.png").symlink_to(tmp_path / "real" / "1.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    source = FolderSource(tmp_path / "link")
    assert listed(source, tmp_path / "link") == ["1.png", "2.png"]
    np.testing.assert_array_equal(source.read(0, 8), source.read(1, 8))


@posix
def test_a_dead_link_is_named_as_unreadable_and_a_pipe_is_never_opened(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    (tmp_path / "2.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "3.png")
    source = FolderSource(tmp_path)
    assert listed(source, tmp_path) == ["1.png", "2.png"]
    with pytest.raises(UnreadableImage, match="no such file"):
        source.read(1, 8)
    assert source.notes == ("left out pipes and devices (1): 3.png",)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may list everything"
)
def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "b").chmod(0)
    try:
        source = FolderSource(tmp_path)
        assert listed(source, tmp_path) == ["a/1.png"]
        assert list(source.unlisted.values()) == ["permission denied"]
        assert source.notes == (f"left out {tmp_path / 'b'}/: cannot be listed, permission denied",)
        assert survey(source).unreadable == dict(source.unlisted)
    finally:
        (tmp_path / "b").chmod(0o700)


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "images/1.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert len(open_source(["~/images"])) == 1


# Reading and labels


def test_reading(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", color=(1, 2, 3), side=20)
    put(tmp_path, "b/2.png", color=(4, 5, 6), side=30)
    source = FolderSource(tmp_path)
    for index, (color, side) in enumerate([((1, 2, 3), 20), ((4, 5, 6), 30)]):
        image = source.read(index, 16)
        assert image.shape == (16, 16, 3)
        assert image.dtype == np.uint8
        assert (image == color).all()
        assert source.short_side(index) == side
    copy = pickle.loads(
        pickle.dumps(source)
    )  # as a worker process gets it where processes are not forked
    assert (copy.read(1, 16) == (4, 5, 6)).all()


def test_labels_are_the_first_level_folders(tmp_path: Path) -> None:
    put(tmp_path, "dog/x/1.png", "cat/1.png", "dog/2.png", "0.png", "zebra.png")
    (tmp_path / "empty").mkdir()
    source = FolderSource(tmp_path)
    assert source.classes == ("cat", "dog")
    assert source.notes == ("left out folders without an image (1): empty",)
    assert listed(source, tmp_path) == [
        "0.png",
        "cat/1.png",
        "dog/2.png",
        "dog/x/1.png",
        "zebra.png",
    ]
    assert [source.label(index) for index in range(5)] == [None, 0, 1, 1, None]


def test_a_flat_folder_has_no_classes(tmp_path: Path) -> None:
    put(tmp_path, "1.png", "2.png")
    source = FolderSource(tmp_path)
    assert source.classes == ()
    assert [source.label(0), source.label(1)] == [None, None]


def test_joined_sources_merge_classes_by_name(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    put(first, "dog/1.png", "cat/2.png", color=(1, 1, 1))
    put(second, "ant/1.png", "dog/2.png", "3.png", color=(2, 2, 2), side=40)
    source = open_source([str(first), str(second), "demo:3"])
    assert isinstance(source, JoinedSource)
    assert len(source) == 8
    assert source.classes[:2] == ("ant", "bird")
    named = [
        None if (label := source.label(i)) is None else source.classes[label] for i in range(8)
    ]
    assert named == ["cat", "dog", None, "ant", "dog", *DemoSource(3).classes[:3]]
    assert [int(source.read(i, 8)[0, 0, 0]) for i in range(5)] == [1, 1, 2, 2, 2]
    np.testing.assert_array_equal(source.read(7, 16), DemoSource(3).read(2, 16))
    assert source.name(4) == str(second / "dog" / "2.png")
    assert source.name(5) == DemoSource(3).name(0)
    assert [source.short_side(i) for i in (0, 2, 5)] == [12, 40, 32]
    assert all(part in source.description for part in (str(first), str(second), "demo"))


# Fingerprints


def test_fingerprints_of_different_lists_differ(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "a/2.png")
    seen = [FolderSource(tmp_path).fingerprint()]
    assert FolderSource(tmp_path).fingerprint() == seen[0]
    (tmp_path / "notes.txt").write_text("not an image")
    assert FolderSource(tmp_path).fingerprint() == seen[0]
    put(tmp_path, "a/3.png")
    seen.append(FolderSource(tmp_path).fingerprint())
    (tmp_path / "a" / "3.png").rename(tmp_path / "a" / "4.png")
    seen.append(FolderSource(tmp_path).fingerprint())
    (tmp_path / "a" / "4.png").rename(tmp_path / "4.png")
    seen.append(FolderSource(tmp_path).fingerprint())
    assert len(set(seen)) == 4


def test_fingerprint_depends_on_where_names_end(tmp_path: Path) -> None:
    put(tmp_path / "one", "a.png", "b.pngc.png")
    put(tmp_path / "two", "a.pngb.png", "c.png")
    assert (
        FolderSource(tmp_path / "one").fingerprint() != FolderSource(tmp_path / "two").fingerprint()
    )


def test_fingerprint_does_not_depend_on_where_the_folder_is(tmp_path: Path) -> None:
    put(tmp_path / "one", "a/1.png")
    shutil.copytree(tmp_path / "one", tmp_path / "two")  # with its times
    one, two = FolderSource(tmp_path / "one"), FolderSource(tmp_path / "two")
    assert one.fingerprint() == two.fingerprint()
    assert one.location != two.location
    os.utime(tmp_path / "two" / "a" / "1.png", ns=(0, 0))
    assert one.fingerprint() != two.fingerprint()
    assert one.fingerprint(content=True) == two.fingerprint(content=True)


def test_fingerprint_of_joined_sources(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    specs = [
        ["demo:2", str(tmp_path)],
        [str(tmp_path), "demo:2"],
        ["demo:3", str(tmp_path)],
        ["demo:2"],
    ]
    assert len({open_source(each).fingerprint() for each in specs}) == 4
    assert open_source(specs[0]).fingerprint() == open_source(specs[0]).fingerprint()


# What was typed


def test_demo_specs() -> None:
    assert len(open_source(["demo"])) == DEMO_COUNT
    assert len(open_source(["demo:17"])) == 17
    assert open_source(["demo:5"]).fingerprint() != open_source(["demo-test:5"]).fingerprint()


def test_a_folder_called_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "demo/1.png")
    monkeypatch.chdir(tmp_path)
    assert len(open_source(["./demo"])) == 1
    assert len(open_source(["demo"])) == DEMO_COUNT


def test_nothing_given() -> None:
    with pytest.raises(UsageError, match="no images given"):
        open_source([])


def test_missing_path(tmp_path: Path) -> None:
    text = message(UsageError, tmp_path / "gone")
    assert text.startswith(f"no folder at {tmp_path / 'gone'}; give a folder of images")


def test_empty_path() -> None:
    assert "no folder at ''" in message(UsageError, "")


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    assert "1.png is not a folder; give a folder" in message(UsageError, tmp_path / "1.png")


@posix
def test_a_dead_link_instead_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert "link is not a folder" in message(UsageError, tmp_path / "link")


def test_an_empty_folder(tmp_path: Path) -> None:
    assert "it holds no files" in message(DataError, tmp_path)
    (tmp_path / "deeper").mkdir()
    assert "it holds no files" in message(DataError, tmp_path)


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    assert "its 1 file has no image's ending" in message(DataError, tmp_path)
    (tmp_path / "b.mp4").write_text("x")
    assert "its 2 files have no image's ending" in message(DataError, tmp_path)


@pytest.mark.parametrize(
    "spec",
    [
        "demo:",
        "demo:0",
        "demo:-3",
        "demo:x",
        "demo:1.5",
        "demo-test:1e3",
        "demo:²",
        "demo:1_0",
        f"demo:{10**30}",
    ],
)
def test_a_bad_count(spec: str) -> None:
    text = message(UsageError, spec)
    assert repr(spec) in text
    assert "demo:4096" in text


@pytest.mark.parametrize("spec", ["hugging:imagenet", "tfds:mnist", "timm:CIFAR10"])
def test_an_unknown_scheme(spec: str) -> None:
    assert message(UsageError, spec).startswith(f"no source of this kind at {spec}; give a folder")


# Odd names


@posix
@pytest.mark.parametrize(
    "name",
    [
        b"line\nbreak",
        b"sp ace",
        "ünï-日本".encode(),
        b"tab\tbell\x07",
        b"\xff\xfe bytes",
        b"\x1b[31mred",
    ],
)
def test_odd_names_are_read_and_named_on_one_line(tmp_path: Path, name: bytes) -> None:
    folder = os.path.join(os.fsencode(tmp_path), name)
    try:
        os.mkdir(folder)
        with open(os.path.join(folder, name + b".png"), "wb") as file:
            Image.new("RGB", (12, 12), "red").save(file, "PNG")
        with open(os.path.join(folder, name + b".jpg"), "wb") as file:
            file.write(b"broken")
    except OSError:
        pytest.skip("the file system refuses the name")
    source = FolderSource(os.fsdecode(os.fsencode(tmp_path)))
    assert len(source) == 2
    assert all(source.name(index).isprintable() for index in range(2))
    assert (source.read(1, 8) == (255, 0, 0)).all()
    assert len(source.fingerprint()) == 129
    look = survey(source)
    assert list(look.unreadable) == [source.name(0)]
    inner = FolderSource(os.fsdecode(folder))
    assert inner.description.isprintable()
    assert message(UsageError, os.fsdecode(folder) + "gone")


def test_plain_unicode_is_not_escaped(tmp_path: Path) -> None:
    put(tmp_path, "ünï 日本/a b.png")
    assert FolderSource(tmp_path).name(0) == str(tmp_path / "ünï 日本" / "a b.png")


def test_paths_exist_where_names_for_messages_do_not(tmp_path: Path) -> None:
    name = "Screenshot at 9.41\u202fAM.png"  # as macOS writes it; not printable
    put(tmp_path, name)
    source = FolderSource(tmp_path)
    assert source.path(0) == str(tmp_path / name)
    assert source.relative_path(0) == name
    assert source.name(0) == str(tmp_path / "Screenshot at 9.41\\u202fAM.png")
    assert source.nbytes(0) == (tmp_path / name).stat().st_size
    assert source.content(0) == hashlib.sha256((tmp_path / name).read_bytes()).digest()


def test_names_of_macos_and_of_linux_are_the_same(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    put(tmp_path / "linux", f"{composed}/{composed}.png", "tea/1.png")
    put(tmp_path / "macos", f"{decomposed}/{decomposed}.png", "tea/1.png")
    linux, macos = FolderSource(tmp_path / "linux"), FolderSource(tmp_path / "macos")
    assert linux.classes == macos.classes == (composed, "tea")
    assert [macos.relative_path(i) for i in range(2)] == [f"{composed}/{composed}.png", "tea/1.png"]
    assert os.path.exists(macos.path(0))
    assert JoinedSource([linux, macos]).classes == (composed, "tea")
    both = tmp_path / "both"
    put(both, f"{decomposed}/1.png", f"{composed}/2.png", "tea/3.png")
    source = FolderSource(both)
    if len(os.listdir(both)) == 3:  # a file system that keeps the two apart
        assert source.classes == (composed, "tea")
        assert [source.label(i) for i in range(3)] == [0, 0, 1]


@pytest.mark.parametrize(
    "names",
    [
        ["2", "9", "10", "-1", "cat"],
        ["02", "2", "10"],
        ["9" * 5000, "1" + "0" * 5000, "a", "b"],
        ["7", "\u00b2", "\u0663"],  # digits of other scripts: words
    ],
)
def test_numbers_are_in_numerical_order_before_words(names: list[str]) -> None:
    assert sorted({*names}, key=class_order) == names


# What is left out, and what cannot be read


def test_formats_that_cannot_be_read_are_images_of_their_class(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.jpg", "dog/1.jpg")
    for name in ("IMG_1.HEIC", "2.heif", "3.JXL", "4.dng", "5.svg", "6.psd", "7.dcm"):
        (tmp_path / "phone").mkdir(exist_ok=True)
        (tmp_path / "phone" / name).write_bytes(b"\0\0\0\x18ftypheic")
    source = FolderSource(tmp_path)
    assert (len(source), source.classes, source.notes) == (9, ("cat", "dog", "phone"), ())
    for read in (lambda i: source.read(i, 8), source.short_side, lambda i: source.image(i, 8)):
        with pytest.raises(UnreadableImage, match="DNG is not readable here; convert it to JPEG"):
            read(4)
    assert len(survey(source).unreadable) == 7


def test_a_raw_photograph_is_not_its_thumbnail_but_a_misnamed_jpeg_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "1.nef", "TIFF")
    Image.new("RGB", (16, 16), (255, 0, 0)).save(tmp_path / "2.heic", "PNG")
    source = FolderSource(tmp_path)
    with pytest.raises(UnreadableImage, match="NEF is not readable"):
        source.read(0, 8)
    assert (source.read(1, 8) == (255, 0, 0)).all()


def test_what_systems_add_is_left_out_and_counted(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "a/._1.png", "a/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg")
    put(tmp_path, "__MACOSX/1.png", "b/.thumbnails/2.png", "lost+found/3.png", "#recycle/4.png")
    put(tmp_path, "b/2.png")
    (tmp_path / "a" / "Thumbs.db").touch()
    (tmp_path / "a" / "photo").touch()
    (tmp_path / "labels.csv").touch()
    source = FolderSource(tmp_path)
    assert (listed(source, tmp_path), source.classes) == (["a/1.png", "b/2.png"], ("a", "b"))
    folders, hidden, others = source.notes
    assert folders.startswith("left out hidden or system folders (5): ")
    assert hidden == "left out hidden image files (1): ._1.png"
    assert others == (
        "left out files without an image's extension (3): 1 without any, 1 .csv, 1 .db"
    )


def test_runs_of_ours_below_the_folder_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    before = FolderSource(tmp_path).fingerprint()
    put(tmp_path, "runs/jigsaw-1/figures/samples.png", "runs/deep/er/figures/task.png")
    for folder in ("runs/jigsaw-1", "runs/deep/er"):
        (tmp_path / folder / "run.json").write_text('{"ssltool": "0.1", "method": "jigsaw"}')
    (tmp_path / "runs" / "deep" / "er" / "run.json").write_text("{")  # damaged
    (tmp_path / "runs" / "deep" / "er" / "metrics.jsonl").touch()
    source = FolderSource(tmp_path)
    assert (len(source), source.classes, source.fingerprint()) == (1, (), before)
    assert source.notes == ("left out run folders of ssltool (2): runs/deep/er, runs/jigsaw-1",)
    assert len(FolderSource(tmp_path / "runs" / "jigsaw-1" / "figures")) == 1  # given by name
    with pytest.raises(DataError, match="run folders of ssltool"):
        FolderSource(tmp_path / "runs")


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"method": "x"}'])
def test_another_programs_run_json_marks_nothing(tmp_path: Path, text: str) -> None:
    put(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a" / "run.json").write_text(text)
    assert FolderSource(tmp_path).classes == ("a", "b")


@posix
def test_hard_links_are_images_of_their_own(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.png").hardlink_to(tmp_path / "a" / "1.png")
    assert listed(FolderSource(tmp_path), tmp_path) == ["a/1.png", "b/2.png"]


# The survey


def test_survey(tmp_path: Path) -> None:
    put(tmp_path, "1.png", "2.png", color=(255, 0, 0), side=20)
    put(tmp_path, "3.png", color=(0, 0, 0), side=40)
    put(tmp_path, "4.png", color=(255, 255, 255), side=40)
    (tmp_path / "5.png").write_bytes(b"broken")
    look = survey(FolderSource(tmp_path))
    assert look.count == 5
    assert look.short_side == 30  # median of 20, 20, 40, 40
    assert look.gray_fraction == 0.5
    assert look.mean == pytest.approx((0.75, 0.25, 0.25))
    assert look.std == pytest.approx((np.sqrt(3) / 4,) * 3)
    assert look.unreadable == {str(tmp_path / "5.png"): "not an image in a known format"}


def test_survey_reads_a_spread_sample(tmp_path: Path) -> None:
    put(tmp_path, *[f"{number:02}.png" for number in range(21)], color=(0, 0, 0))
    for number in (0, 10, 20):
        put(tmp_path, f"{number:02}.png", color=(255, 255, 255))
    assert survey(FolderSource(tmp_path), sample=3).mean == (1, 1, 1)


def test_survey_searches_on_when_the_whole_sample_is_unreadable(tmp_path: Path) -> None:
    put(tmp_path, *[f"{number}.png" for number in range(5)])
    put(tmp_path, "1.png", color=(100, 100, 100))
    for number in (0, 2, 4):
        (tmp_path / f"{number}.png").write_bytes(b"")
    look = survey(FolderSource(tmp_path), sample=3)
    assert look.gray_fraction == 0.5  # not of the first readable image alone
    assert look.mean == pytest.approx((150 / 255, 100 / 255, 75 / 255))
    assert len(look.unreadable) == 3


def test_survey_of_nothing_readable_names_the_first(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_text("no image")
    with pytest.raises(DataError) as caught:
        survey(FolderSource(tmp_path))
    assert type(caught.value) is DataError
    first = f"{tmp_path / 'a.jpg'}: not an image in a known format"
    assert (
        str(caught.value)
        == f"none of the 2 files in {tmp_path} can be read as an image; first: {first}"
    )


def test_survey_of_the_demo_world() -> None:
    look = survey(DemoSource(100), sample=8)
    assert (look.count, look.short_side, look.gray_fraction, look.unreadable) == (100, 32, 0, {})

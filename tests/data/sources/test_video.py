"""Frames of videos: specs, order and identity with a decoder of its own; then real files."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from made_kills import KILL_AFTER
from numpy.typing import NDArray
from PIL import Image

import ssltool
from ssltool.data.loader import TrainBatches
from ssltool.data.sources import video
from ssltool.data.sources.base import Source
from ssltool.data.sources.locations import check_specs, video_and_step
from ssltool.data.sources.registry import open_source, splits_of
from ssltool.data.sources.video import VideoSource
from ssltool.errors import DataError, UnreadableImage, UsageError

FRAMES = np.random.default_rng(0).integers(0, 256, (24, 36, 40, 3), np.uint8)


class Decoder:
    """Stands for torchcodec's: the number of a frame is its color."""

    def __init__(self, frames: int = 20, **metadata: Any) -> None:
        stated = {"duration_seconds_from_header": 2, "end_stream_seconds_from_content": 2}
        size = {"width": 32, "height": 24, "num_frames": frames}
        self.metadata = SimpleNamespace(**{**size, **stated, **metadata})
        self.asked = list[int]()
        self.broken = set[int]()

    def get_frame_at(self, index: int) -> SimpleNamespace:
        self.asked.append(index)
        if index in self.broken:
            raise RuntimeError("f, /src/a.cpp:14, Could not push packet: Invalid data\nat 0x1")
        return SimpleNamespace(data=torch.full((24, 32, 3), index, dtype=torch.uint8))


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Decoder:
    made = Decoder()
    monkeypatch.setattr(video, "_opened", lambda path: made)
    monkeypatch.setattr("ssltool.data.sources.extras.find_spec", lambda name: name)
    video._decoder.cache_clear()
    return made


@pytest.fixture
def clip(tmp_path: Path, decoder: Decoder) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"video")
    return path


def test_every_nth_frame_by_its_number(clip: Path, decoder: Decoder) -> None:
    source = open_source(f"{clip}?every=7")
    assert len(source) == 3
    assert [int(source.read(i, 16)[0, 0, 0]) for i in (2, 0, 1)] == [14, 0, 7]
    assert [source.relative_path(i) for i in range(3)] == [f"clip.mp4/{i}" for i in (0, 7, 14)]
    assert source.name(2) == f"frame 14 of {clip}"
    assert (source.classes, source.label(0), source.short_side(0)) == ((), None, 24)
    assert source.read_whole(1, 16)[1] == 32 / 24
    assert len(open_source(f"{clip}?every=100")) == 1
    assert len(open_source([clip, f"{clip}?every=3"])) == 27


def test_specs(clip: Path, tmp_path: Path) -> None:
    for ending in ("mp4", "MOV", "mkv", "webm", "avi"):
        assert video_and_step(f"a.{ending}") == (f"a.{ending}", 1)
        assert video_and_step(f"a.{ending}?every=010") == (f"a.{ending}", 10)
    assert video_and_step("a.zip?every=3") is None
    assert video_and_step("what?.mp4") == ("what?.mp4", 1)
    for query in ("every=0", "every=-1", "every=", "each=3", "", "every=3&x=1", "every=1.5"):
        with pytest.raises(UsageError, match="is every=N") as error:
            check_specs([f"{clip}?{query}"])
        assert "\n" not in str(error.value)
    check_specs([str(clip), f"{clip}?every=2"])
    with pytest.raises(UsageError, match="no file at"):
        check_specs([f"{tmp_path}/other.mp4?every=2"])
    with pytest.raises(UsageError, match="download it first"):
        check_specs(["https://example.org/clip.mp4?every=2"])
    assert splits_of(f"{clip}?every=2") == {}


def test_a_folder_of_videos_alone(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "b.mkv").write_bytes(b"another")
    (tmp_path / ".hidden").touch()
    source = open_source(tmp_path)
    assert len(source) == 40
    assert source.relative_path(20) == "clip.mp4/0"
    assert len(open_source(f"{tmp_path}?every=10")) == 4
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="does not hold videos alone"):
        open_source(f"{tmp_path}?every=10")
    with pytest.raises(DataError, match="no images in"):
        open_source(tmp_path)


def test_identity(clip: Path, tmp_path: Path) -> None:
    first = open_source(clip)
    assert first.fingerprint() == open_source(clip).fingerprint()
    assert first.fingerprint() != open_source(f"{clip}?every=2").fingerprint()
    (tmp_path / "copy").mkdir()
    copy = Path(shutil.copy(clip, tmp_path / "copy"))
    os.utime(copy, ns=(1, 1))
    other = open_source(copy)
    assert first.fingerprint() != other.fingerprint()
    assert first.fingerprint(content=True) == other.fingerprint(content=True)
    copy.write_bytes(b"vidEo")
    assert first.fingerprint(content=True) != open_source(copy).fingerprint(content=True)


def test_a_changed_file_is_not_read(clip: Path) -> None:
    source = open_source(clip)
    clip.write_bytes(b"another video")
    with pytest.raises(UnreadableImage, match="has changed"):
        source.read(0, 16)
    clip.unlink()
    with pytest.raises(UnreadableImage, match="is gone"):
        source.read(0, 16)


def test_a_broken_frame_is_replaced_and_a_batch_is_read_in_order(
    clip: Path, decoder: Decoder
) -> None:
    decoder.broken = {5}
    with TrainBatches(open_source(clip), size=16, batch_size=10, seed=3, workers=0) as loader:
        batches = loader.from_step(0)
        read = [next(batches) for _ in range(2)]
    for batch in read:
        colors = batch.images[:, 0, 0, 0].tolist()
        assert colors == batch.indices.tolist()
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert colors != sorted(colors)
    reason = "cannot be decoded (Could not push packet: Invalid data)"
    assert loader.skipped == {f"frame 5 of {clip}": reason}
    everything = [i for batch in read for i in batch.indices.tolist()]
    assert sorted([*everything, 5]) == sorted([*range(20), 6])
    starts = [i for i in range(1, len(decoder.asked)) if decoder.asked[i] < decoder.asked[i - 1]]
    assert len(starts) <= 2  # once per batch, and once to look at what could be read before


def test_a_source_has_the_decoder_of_its_process_and_is_picklable(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = list[str]()
    monkeypatch.setattr(video, "_opened", lambda path: opened.append(path) or Decoder())
    source = open_source(clip)
    copy: Source = pickle.loads(pickle.dumps(source))
    assert np.array_equal(copy.read(3, 16), source.read(3, 16))
    assert len(opened) == 1
    monkeypatch.setattr(os, "getpid", lambda: -1)
    source.read(3, 16)
    assert len(opened) == 2


def test_notes_and_empty_videos(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_source(clip).notes == ()
    short = Decoder(end_stream_seconds_from_content=1.2)
    monkeypatch.setattr(video, "_opened", lambda path: short)
    video._decoder.cache_clear()
    assert "states 2.0 s, its 20 frames end after 1.2 s" in open_source(clip).notes[0]
    monkeypatch.setattr(video, "_opened", lambda path: Decoder(0))
    video._decoder.cache_clear()
    with pytest.raises(DataError, match="is empty"):
        open_source(clip)


def test_without_torchcodec_or_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"video")
    video._decoder.cache_clear()
    monkeypatch.setattr("ssltool.data.sources.extras.find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(UsageError, match=r"needs FFmpeg.*apt install ffmpeg"):
        open_source(clip)
    monkeypatch.setattr("ssltool.data.sources.extras.find_spec", lambda name: None)
    for act in (check_specs, open_source):
        with pytest.raises(UsageError, match=r"pip install 'ssltool\[video\]'"):
            act([str(clip)])


Encode = Callable[..., Path]


@pytest.fixture
def encode(tmp_path: Path) -> Encode:
    """Writes `FRAMES` with options of FFmpeg; skips where FFmpeg or torchcodec are missing."""
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"torchcodec cannot be loaded: {type(error).__name__}")
    if not shutil.which("ffmpeg"):
        pytest.skip("no ffmpeg")

    def write(name: str, *options: str, frames: NDArray[np.uint8] = FRAMES) -> Path:
        height, width = frames.shape[1:3]
        raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", "10"]
        command = ["ffmpeg", "-v", "error", *raw, "-i", "-", *options, str(tmp_path / name)]
        subprocess.run(command, input=frames.tobytes(), check=True)
        return tmp_path / name

    return write


def lossless(encode: Encode, name: str = "clip.mkv") -> Path:
    return encode(name, "-c:v", "ffv1", "-pix_fmt", "bgr0", "-g", "8")


@pytest.mark.slow
def test_frames_are_those_that_were_encoded(encode: Encode) -> None:
    source = VideoSource(str(lossless(encode)))
    assert len(source) == len(FRAMES)
    for index in np.random.default_rng(1).permutation(len(FRAMES)).tolist():
        assert np.array_equal(np.asarray(source.image(index, 1000)), FRAMES[index])
    assert np.array_equal(source.read(3, 36), FRAMES[3, :, 2:38])


def test_rotation_of_the_file(encode: Encode) -> None:
    path = encode("a.mp4", "-c:v", "mpeg4", "-q:v", "2")
    turned = path.with_name("turned.mp4")
    command = ["ffmpeg", "-v", "error", "-i", path, "-c", "copy", "-metadata:s:v:0", "rotate=90"]
    subprocess.run([*command, turned], check=True)
    upright, source = open_source(path).image(2, 99), open_source(turned)
    size = source.image(2, 99).size
    if size == upright.size:
        pytest.skip("this FFmpeg does not write the rotation")
    assert size == (36, 40)


def test_damaged_files(encode: Encode) -> None:
    data = encode("a.mp4", "-c:v", "mpeg4", "-g", "4", "-movflags", "+faststart").read_bytes()
    cut = encode("cut.mp4", "-c:v", "mpeg4")
    cut.write_bytes(data[: len(data) // 2])
    (note,) = open_source(cut).notes
    assert "may be cut off: its header states 2.4 s" in note
    for content, reason in ((data[:300], "no video, damaged or cut off"), (b"", "it is empty")):
        cut.write_bytes(content)
        with pytest.raises(DataError, match=reason) as error:
            open_source(cut)
        assert "\n" not in str(error.value)


KILLED = f"""
{KILL_AFTER}
kill_after(3)
ssltool.pretrain("npid", sys.argv[1], out=sys.argv[2], workers=1, **json.loads(sys.argv[3]))
"""


@pytest.mark.slow
def test_a_killed_run_and_one_of_a_folder_give_the_same_weights(
    encode: Encode, tmp_path: Path
) -> None:
    options = {"image_size": 32, "batch_size": 8, "steps": 6, "checkpoint_every": 3}
    options |= {"precision": "fp32"}
    clip, folder = lossless(encode), tmp_path / "frames"
    folder.mkdir()
    for number, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(folder / f"{number:03d}.png")
    command = [
        sys.executable,
        "-c",
        KILLED,
        str(clip),
        str(tmp_path / "killed"),
        json.dumps(options),
    ]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    ssltool.pretrain("npid", out=tmp_path / "killed", resume=True)
    ssltool.pretrain("npid", str(clip), out=tmp_path / "whole", workers=0, **options)
    ssltool.pretrain("npid", str(folder), out=tmp_path / "folder", workers=0, **options)
    weights = [tmp_path / run / "encoder.safetensors" for run in ("killed", "whole", "folder")]
    killed, whole, of_folder = (path.read_bytes() for path in weights)
    assert killed == whole
    from safetensors.torch import load

    same, other = load(whole), load(of_folder)
    assert all(torch.equal(same[name], other[name]) for name in same)

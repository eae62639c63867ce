"""Batches decoded by another decoder: a stand-in for the GPU's, its pixels, and what it refuses."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from torch import Tensor

from ssltool.data import resizing
from ssltool.data.decode import decode
from ssltool.data.gpu_jpeg import JpegDecoder, cuda_decoder, reduced, square, stretched
from ssltool.data.loader import TrainBatches
from ssltool.data.sources.registry import open_source


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


class FakeDecoder:
    """Pillow at full scale; refuses a batch in which a file holds the word refuse."""

    def __init__(self) -> None:
        self.decoded = 0

    def __call__(self, files: list[Tensor]) -> list[Tensor]:
        contents = [bytes(file.numpy()) for file in files]
        if any(b"refuse" in content for content in contents):
            raise RuntimeError("nvJPEG: unsupported")
        self.decoded += len(files)
        images = [np.array(Image.open(io.BytesIO(c)).convert("RGB")) for c in contents]
        return [torch.from_numpy(image).permute(2, 0, 1) for image in images]


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
@pytest.mark.parametrize("by", [2, 4, 8])
def test_large_files_are_reduced_as_libjpeg_does(by: int, subsampling: str) -> None:
    file = jpeg(smooth(16 * by + 3, 20 * by + 1), quality=95, subsampling=subsampling)
    whole = torch.from_numpy(np.array(Image.open(io.BytesIO(file)))).permute(2, 0, 1)
    expected = np.asarray(decode(io.BytesIO(file), 16)).astype(int)
    found = reduced(whole, 16).permute(1, 2, 0).numpy()
    assert found.shape == expected.shape
    difference = found - expected
    if subsampling == "4:2:0":  # colors at half the resolution are interpolated, lightness is not
        difference = difference @ np.array([0.299, 0.587, 0.114])
    assert np.percentile(np.abs(difference), 99) <= 2


@settings(deadline=None, max_examples=40)
@given(st.integers(8, 90), st.integers(8, 90), st.integers(4, 64))
def test_geometry_is_that_of_the_cpu(width: int, height: int, size: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    for here, there in ((resizing.square, square), (resizing.stretched, stretched)):
        expected, found = here(pixels, size), there(image, size)
        if isinstance(expected, tuple):
            expected, aspect = expected
            assert found[1] == aspect
        difference = found[0].permute(1, 2, 0).int() - torch.from_numpy(expected.copy()).int()
        assert difference.abs().max() <= 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of each kind one: what a GPU is given, and what it is not."""
    (tmp_path / "in").mkdir()
    rotated = Image.Exif()
    rotated[0x0112] = 6
    plain = jpeg(smooth(60, 40), quality=90)
    files = {
        "a.jpg": plain,
        "b.jpg": jpeg(smooth(40, 60, 1).convert("L")),
        "c.jpg": jpeg(smooth(60, 40, 2), progressive=True),
        "d.jpg": jpeg(smooth(60, 40, 3), exif=rotated),
        "e.jpg": jpeg(smooth(60, 40, 4).convert("CMYK")),
        "f.jpg": plain[:-40],
        "g.jpg": jpeg(smooth(60, 40, 5), comment=b"refuse"),
    }
    for name, content in files.items():
        (tmp_path / "in" / name).write_bytes(content)
    smooth(60, 40, 6).save(tmp_path / "in" / "h.png")
    return tmp_path / "in"


def test_what_a_gpu_is_given(folder: Path) -> None:
    source = open_source(folder)
    given = [source.relative_path(i) for i in range(len(source)) if source.jpeg(i)]
    assert given == ["a.jpg", "b.jpg", "g.jpg"]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_those_of_the_cpu(folder: Path, workers: int, whole: bool) -> None:
    fake, batches = FakeDecoder(), []
    for decoder in (None, JpegDecoder(fake)):
        loader = TrainBatches(
            open_source(folder),
            size=24,
            batch_size=8,
            seed=0,
            workers=workers,
            whole=whole,
            decoder=decoder,
            cache_bytes=2**20,
        )
        with loader:
            stream = loader.from_step(0)
            first, batch = next(stream), next(stream)
        assert not batch.files
        assert [Path(name).name for name in loader.skipped] == ["f.jpg"]
        batches.append((first, batch))
    assert fake.decoded >= 4  # two of each batch, not of a cache
    for cpu, other in zip(*batches, strict=True):
        assert cpu.indices.equal(other.indices)
        assert (cpu.images.int() - other.images.int()).abs().max() <= 2
        if whole:
            torch.testing.assert_close(cpu.aspects, other.aspects)


def test_without_cuda_there_is_a_note_and_a_resume_keeps_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ssltool.runs.options import FREE_ON_RESUME, RunOptions
    from ssltool.training.trainer import _decoder

    assert cuda_decoder(torch.device("cpu")) is None
    assert "decode" not in FREE_ON_RESUME
    options = RunOptions(decode="gpu")
    assert _decoder(options, torch.device("cpu"), Console()) is None  # type: ignore[arg-type]
    assert "images are decoded on the CPU" in " ".join(capsys.readouterr().out.split())

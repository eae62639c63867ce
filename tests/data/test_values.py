"""Values of TIFF, NumPy, DICOM and other files, against the arrays that they were written from."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from ssltool.data.decode import decode
from ssltool.data.values import read_values
from ssltool.errors import UnreadableImage


def noise(*shape: int, dtype: str = "uint16") -> NDArray[Any]:
    numbers = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return numbers.normal(0, 100, shape).astype(dtype)
    ends = np.iinfo(dtype)
    return numbers.integers(ends.min, ends.max, shape, dtype, endpoint=True)


def tiff(values: NDArray[Any], **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **{"photometric": "minisblack", **options})
    file.seek(0)
    return file


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "uint32", "float32", "float64"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}, {"byteorder": ">"}, {"bigtiff": 1}]
)
def test_tiff_of_bands(dtype: str, planar: str, options: dict[str, Any]) -> None:
    values = noise(20, 24, 5, dtype=dtype)
    stored = values if planar == "contig" else values.transpose(2, 0, 1)
    read = read_values(tiff(stored, planarconfig=planar, **options))
    assert read.dtype == dtype
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, values)


def test_pages_of_a_tiff_are_channels() -> None:
    values = noise(7, 16, 18)
    np.testing.assert_array_equal(read_values(tiff(values)), values.transpose(1, 2, 0))


def test_lzw_as_gdal_writes_it() -> None:
    values = noise(16, 16, 4)
    file = tiff(values, planarconfig="contig", compression="lzw", predictor=2)
    np.testing.assert_array_equal(read_values(file), values)


@pytest.mark.parametrize("axes", ["ZYX", "TYX", "TCYX"])
def test_stacks_are_refused(axes: str) -> None:
    shape = {"Z": 6, "T": 6, "C": 3, "Y": 16, "X": 16}
    values = noise(*(shape[axis] for axis in axes))
    with pytest.raises(UnreadableImage, match="expected one image of some channels"):
        read_values(tiff(values, imagej=True, metadata={"axes": axes}))


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_cut_tiff_is_never_read_in_part(compression: str | None) -> None:
    whole = tiff(noise(32, 32, 5), planarconfig="contig", compression=compression).getvalue()
    for share in (0.1, 0.5, 0.9, 0.99):
        with pytest.raises(UnreadableImage):
            read_values(io.BytesIO(whole[: int(len(whole) * share)]))


@pytest.mark.parametrize("shape", [(12, 14), (12, 14, 6)])
def test_numpy(shape: tuple[int, ...]) -> None:
    file, values = io.BytesIO(), noise(*shape, dtype="float32")
    np.save(file, values)
    np.testing.assert_array_equal(read_values(file), values.reshape(12, 14, -1))
    with pytest.raises(UnreadableImage, match="bytes of values"):
        read_values(io.BytesIO(file.getvalue()[:-8]))


def test_arrays_of_objects_and_text_are_refused() -> None:
    for values in (np.full((9, 9), "a"), np.empty((9, 9), object), np.ones((9, 9), complex)):
        file = io.BytesIO()
        np.save(file, values)
        with pytest.raises(UnreadableImage):
            read_values(file)


def dicom(stored: NDArray[Any], **fields: Any) -> io.BytesIO:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    file.Rows, file.Columns = stored.shape[:2]
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 12, 11
    file.PixelRepresentation = int(stored.dtype.kind == "i")
    for name, value in fields.items():
        setattr(file, name, value)
    file.PixelData = stored.tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, file, enforce_file_format=True)
    buffer.seek(0)
    return buffer


def test_dicom_applies_slope_and_intercept() -> None:
    stored = np.arange(20 * 24, dtype=np.uint16).reshape(20, 24) * 8
    file = dicom(stored, RescaleSlope=0.5, RescaleIntercept=-1024)
    expected = stored.astype(np.float32)[..., None] * 0.5 - 1024
    read = read_values(file)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize(("kind", "white"), [("uint16", 4095), ("int16", -1)])
def test_monochrome1_is_inverted(kind: str, white: int) -> None:
    stored = np.arange(256, dtype=kind).reshape(16, 16)
    file = dicom(stored, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read_values(file)[..., 0], white - stored.astype(np.float32))


def test_dicom_refusals() -> None:
    stored = noise(16, 16) // 16
    with pytest.raises(UnreadableImage, match="3 frames"):
        read_values(dicom(np.stack([stored] * 3), Rows=16, Columns=16, NumberOfFrames=3))
    with pytest.raises(UnreadableImage):
        read_values(io.BytesIO(dicom(stored).getvalue()[:-100]))
    with pytest.raises(UnreadableImage, match="--channels 1 --value-range auto"):
        decode(dicom(stored))


def test_other_files_are_read_without_conversion(tmp_path: Path) -> None:
    gray, color = noise(16, 18), noise(16, 18, 4, dtype="uint8")
    Image.fromarray(gray).save(tmp_path / "gray.png")
    Image.fromarray(color).save(tmp_path / "color.png")
    np.testing.assert_array_equal(read_values(tmp_path / "gray.png"), gray[..., None])
    np.testing.assert_array_equal(read_values(tmp_path / "color.png"), color)
    Image.fromarray(color[..., :3]).quantize(8).save(tmp_path / "palette.png")
    with pytest.raises(UnreadableImage, match="colors of mode P"):
        read_values(tmp_path / "palette.png")
    color16 = noise(16, 18, 3)
    import imagecodecs

    (tmp_path / "color16.png").write_bytes(imagecodecs.png_encode(color16))
    with pytest.raises(UnreadableImage, match="color in 16 bits"):
        read_values(tmp_path / "color16.png")


@pytest.mark.parametrize(("white", "sort"), [(255, "P5"), (65535, "P5"), (255, "P6")])
def test_pgm_and_ppm(white: int, sort: str) -> None:
    values = noise(9, 10, 3 if sort == "P6" else 1, dtype="uint8" if white == 255 else "uint16")
    stored = values.astype(values.dtype.newbyteorder(">")).tobytes()
    read = read_values(io.BytesIO(b"%s\n10 9\n%d\n" % (sort.encode(), white) + stored))
    assert read.dtype == values.dtype
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize(("white", "sort"), [(100, "P5"), (4095, "P5"), (100, "P6"), (65535, "P6")])
def test_samples_that_pillow_scales_are_refused(white: int, sort: str) -> None:
    values = noise(9, 10, 3 if sort == "P6" else 1) % white
    stored = values.astype("u1" if white < 256 else ">u2").tobytes()
    with pytest.raises(UnreadableImage, match=f"a maximum of {white}"):
        read_values(io.BytesIO(b"%s\n10 9\n%d\n" % (sort.encode(), white) + stored))


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("codec", ["jp2", "j2k"])
def test_color_of_jpeg_2000_is_read_in_8_bits_alone(bits: int, codec: str) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    values = noise(16, 18, 3, dtype="uint8" if bits == 8 else "uint16") >> (16 - bits) % 8
    file = io.BytesIO(
        imagecodecs.jpeg2k_encode(
            values, level=0, reversible=True, codecformat=codec, bitspersample=bits
        )
    )
    if bits == 8:
        np.testing.assert_array_equal(read_values(file), values)
    else:
        with pytest.raises(UnreadableImage, match="color in 16 bits"):
            read_values(file)


def test_heic_against_its_own_library() -> None:
    import pillow_heif

    rows, columns = np.mgrid[:48, :64]
    pixels = np.stack([rows * 5, columns * 4, 255 - rows * 2], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(file, quality=90)
    read = np.asarray(decode(io.BytesIO(file.getvalue())))
    reference = np.asarray(pillow_heif.open_heif(io.BytesIO(file.getvalue())).to_pillow())
    np.testing.assert_array_equal(read, reference)
    assert np.abs(read.astype(int) - pixels).mean() < 3
    for share in (0.3, 0.7, 0.95):
        with pytest.raises(UnreadableImage):
            decode(io.BytesIO(file.getvalue()[: int(len(file.getvalue()) * share)]))

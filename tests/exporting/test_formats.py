"""What timm, transformers, onnxruntime and torch make of an export."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ssltool.encoders.catalog import BACKBONES
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.metadata import EncoderMetadata
from ssltool.encoders.registry import build_encoder
from ssltool.encoders.transform import InputTransform
from ssltool.encoders.weights import describe, save_encoder
from ssltool.errors import SslToolError, UsageError, WeightsError
from ssltool.exporting import comparison, timm
from ssltool.exporting.export import export
from ssltool.exporting.graph import Graph
from ssltool.exporting.program import pickled_parts

SIDE = 32
NORM = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}


def randomize(encoder: Encoder) -> None:
    """Values that every tensor's absence or mistaken place would change, and statistics of images,
    so that features depend on them.
    """
    for name, parameter in encoder.named_parameters():
        if "layer_scale" in name or name.endswith("gamma"):
            nn.init.uniform_(parameter.data, 0.1, 1)
        elif parameter.dim() == 1:
            nn.init.normal_(parameter.data, mean=float(name.endswith("weight")), std=0.1)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average
    with torch.no_grad():
        side = encoder.position_size or SIDE
        encoder.train()(coarse(16, side).float()[:, : encoder.in_channels] / 64 - 2)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):  # no rounding is amplified
            module.running_var.clamp_min_(1e-3)


def coarse(count: int, side: int) -> Tensor:
    """Images uint8 ``[count, 3, side, side]`` of large spots."""
    spots = torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8)
    return nn.functional.interpolate(spots, (side, side), mode="bilinear")


def encoder_of(name: str, *, side: int = SIDE, metadata: dict[str, Any] | None = None,
               **options: Any) -> Encoder:  # fmt: skip
    """An encoder with random weights, statistics and metadata."""
    torch.manual_seed(0)
    encoder = build_encoder(name, image_size=side, **options)
    randomize(encoder)
    gray = encoder.in_channels == 1
    norm = {"mean": (0.4,), "std": (0.2,)} if gray else NORM
    given = {"method": "jigsaw", "color_space": "rgb", "image_size": side, **norm}
    described = describe(encoder, **{**given, **(metadata or {})})
    encoder.metadata = described
    return encoder.eval()


def saved(encoder: Encoder, folder: Path) -> Path:
    path = folder / "weights.safetensors"
    save_encoder(encoder, encoder.metadata, path)
    return path


def standardized(encoder: Encoder, how: str) -> Encoder:
    encoder.metadata = encoder.metadata.model_copy(update={"standardize": how})
    return encoder


# --- timm ---------------------------------------------------------------------------------------

OF_EACH_FAMILY = [
    ("resnet18", {}),
    ("resnet18", {"last_stage": "layer2"}),
    ("resnet50", {"norm": "ln", "last_stage": "layer3"}),
    ("resnet18", {"in_channels": 1}),
    ("mobilenet_v2", {}),
    ("efficientnet_b0", {}),
    ("efficientnet_b0", {"in_channels": 1}),
    ("regnet_x_400mf", {}),
    ("regnet_y_400mf", {}),
    ("densenet121", {}),
    ("vit_b_32", {"last_stage": "block3"}),
    ("timm/resnet18d", {"in_channels": 1}),
    ("timm/vit_tiny_patch16_224", {"last_stage": "block6"}),
    ("timm/test_vit,patch_size=8", {}),
    ("timm/test_efficientnet", {"in_channels": 1}),
    ("timm/mobilenetv3_small_100", {}),
]
LARGER = [
    ("resnext50_32x4d", {}),
    ("wide_resnet50_2", {}),
    ("regnet_y_800mf", {}),
    ("efficientnet_v2_s", {}),
    ("convnext_tiny", {}),
    ("timm/convnext_atto", {}),
    ("timm/swin_tiny_patch4_window7_224", {"side": 224}),
    ("vit_b_16", {}),
    ("swin_t", {"side": 224}),
]


def check_in_timm(name: str, options: dict[str, Any], folder: Path) -> None:
    import timm as library

    encoder = encoder_of(name, **options)
    timm.write(encoder, folder)
    model = library.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    side = encoder.metadata.image_size
    pixels = coarse(2, side)
    transform = library.data.create_transform(**library.data.resolve_data_config({}, model=model))
    inputs = torch.stack([transform(Image.fromarray(x.permute(1, 2, 0).numpy())) for x in pixels])
    with torch.no_grad():
        expected, features = encoder(encoder.transform(pixels)), model(inputs)
    assert features.shape == expected.shape
    assert torch.allclose(features, expected, atol=1e-4 * max(1, float(expected.abs().max())))
    assert expected.std(dim=0).max() > 1e-2 * expected.abs().max()  # it depends on the image


@pytest.mark.slow
def test_timm_computes_the_features_of_each_family(tmp_path: Path) -> None:
    for number, (name, options) in enumerate(OF_EACH_FAMILY):
        folder = tmp_path / str(number)
        folder.mkdir()
        check_in_timm(name, options, folder)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), LARGER)
def test_timm_computes_the_features_of_larger_ones(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    check_in_timm(name, options, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_backbone_fits_a_network_of_timm_or_is_refused(name: str) -> None:
    """Shapes and keys alone, on the meta device."""
    side = 224
    encoder = build_encoder(name, image_size=side, empty=True)
    encoder.metadata = describe(
        encoder, method="jigsaw", color_space="rgb", image_size=side, **NORM
    )
    refused = r"alexnet|caffenet|contextnet|color.*|inpaintnet|.*_w32.*|resnet(20|32|44|56)"
    if re.fullmatch(refused + "|vgg.*|shufflenet.*|mobilenet_v3.*|swin_v2.*", name):
        with pytest.raises(UsageError, match="--format timm: "):
            timm.architecture(encoder)
        return
    found = timm.architecture(encoder)
    expected = timm._build(found).state_dict()
    tensors = timm.renamed(encoder.backbone.state_dict(), expected)
    assert tensors is not None
    assert {k: t.shape for k, t in tensors.items()} == {k: t.shape for k, t in expected.items()}


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("resnet10_w32", {}, "no 3x3 stem without max-pool"),
        ("resnet18", {"stem": "small"}, "no 3x3 stem without max-pool"),
        ("caffenet", {}, "timm has no caffenet"),
        ("mobilenet_v3_small", {}, "one more layer after pooling"),
        ("resnet18", {"norm": "ln2d"}, "no norm 'ln2d'"),
        ("efficientnet_b0", {"norm": "ln"}, "no norm 'ln'"),
        ("densenet121", {"last_stage": "denseblock1"}, "cannot end after denseblock1"),
        ("swin_t", {}, "images of 224 px or a multiple"),
    ],
)
def test_what_timm_cannot_compute_is_refused(
    name: str, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        timm.architecture(encoder_of(name, **options))
    assert "these work: --format safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_timms_transform_cannot_make_is_refused() -> None:
    with pytest.raises(UsageError, match="type --fixed-norm"):
        timm.architecture(standardized(encoder_of("resnet18"), "image"))
    light = {"color_space": "lightness", "mean": (0.5,), "std": (0.5,)}
    with pytest.raises(UsageError, match="type --form rgb for an approximation"):
        timm.architecture(encoder_of("resnet18", in_channels=1, metadata=light))


@given(st.permutations([(4,), (4, 1, 1), (3, 4), (2, 2), (4,)]))
@settings(max_examples=30)
def test_tensors_of_a_shape_keep_their_order(shapes: list[tuple[int, ...]]) -> None:
    tensors = {f"a{n}": torch.full(shape, float(n)) for n, shape in enumerate(shapes)}
    order = sorted(range(len(shapes)), key=lambda n: shapes[n] != (3, 4))  # others in order
    expected = {f"b{n}": torch.empty([s for s in shapes[n] if s > 1]) for n in order}
    found = timm.renamed(tensors, expected)
    assert found is not None
    assert {key: float(value.flatten()[0]) for key, value in found.items()} == {
        f"b{n}": float(n) for n in order
    }
    assert timm.renamed(tensors, {**expected, "c": torch.empty(4)}) is None
    assert timm.renamed(tensors, {"b": torch.empty(4)}) is None


# --- graphs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "metadata", "channels"),
    [
        ("data", {}, 3),
        ("image", {}, 3),
        ("channels", {}, 1),
        ("data", {"color_space": "lightness", "mean": (0.5,), "std": (0.5,)}, 1),
        ("data", {"color_space": "lab", "mean": (0.5, 0, 0), "std": (0.5, 1, 1)}, 3),
    ],
)
def test_the_transform_of_a_graph_is_that_of_the_encoder(
    how: str, metadata: dict[str, Any], channels: int
) -> None:
    encoder = standardized(encoder_of("resnet10_w32", in_channels=channels, metadata=metadata), how)
    images = torch.randint(0, 256, (4, 3, SIDE, SIDE), dtype=torch.uint8)
    images[3] = 77  # of one color
    inputs = Graph(encoder, uint8=True).transform(images)
    assert torch.allclose(inputs, encoder.transform(images), atol=2e-5)


def onnx_input(file: Path) -> tuple[list[Any], str, dict[str, str], list[str]]:
    import onnx

    model = onnx.load(file)
    tensor = model.graph.input[0].type.tensor_type
    shape = [axis.dim_value or axis.dim_param for axis in tensor.shape.dim]
    about = {entry.key: entry.value for entry in model.metadata_props}
    return shape, str(tensor.elem_type), about, [output.name for output in model.graph.output]


@pytest.mark.slow
def test_an_onnx_file_and_an_archive_compute_every_output(tmp_path: Path) -> None:
    import onnxruntime

    encoder = standardized(encoder_of("resnet10_w32_s2", in_channels=1), "image")
    result = export(
        saved(encoder, tmp_path), tmp_path / "out", formats=["onnx", "torch"], uint8=True
    )
    assert [each.reader for each in result.comparisons] == ["onnxruntime", "torch.export"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "encoder.onnx",
        "encoder.pt2",
    ]  # no weights beside the graph
    assert "synthetic" in result.notes[0]
    file = tmp_path / "out" / "encoder.onnx"
    shape, kind, about, outputs = onnx_input(file)
    assert (shape[1], kind) == (3, "2")  # uint8
    assert all(isinstance(axis, str) for axis in (shape[0], *shape[2:]))  # of any length
    assert EncoderMetadata.from_json(about["ssltool"], file) == (encoder.metadata)
    assert outputs == ["pooled", "stem", "layer1", "layer2", "layer3", "layer4"]
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    program = torch.export.load(tmp_path / "out" / "encoder.pt2").module()
    for count, side in ((1, SIDE), (3, 2 * SIDE), (2, 8)):
        images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
        x = InputTransform.of(encoder.metadata, side)(images)
        with torch.no_grad():
            expected = [encoder(x), *encoder.maps(x).values()]
            theirs = program(images)
        found = session.run(None, {"images": images.numpy()})
        for want, runtime, torchs in zip(expected, found, theirs, strict=True):
            limit = 1e-4 * max(1, float(want.abs().max()))
            assert np.abs(runtime - want.numpy()).max() < limit
            assert torch.allclose(torchs, want, atol=limit)
    assert pickled_parts(tmp_path / "out" / "encoder.pt2") == []
    run_blocks(tmp_path, {"onnxruntime", "torch.export"})


def test_a_pickle_in_an_archive_is_found(tmp_path: Path) -> None:
    program = torch.export.export(nn.Linear(2, 2), (torch.rand(1, 2),))
    torch.export.save(program, tmp_path / "a.pt2")
    assert any("sample_inputs" in name for name in pickled_parts(tmp_path / "a.pt2"))
    program.example_inputs = None
    torch.export.save(program, tmp_path / "b.pt2")
    assert pickled_parts(tmp_path / "b.pt2") == []
    with zipfile.ZipFile(tmp_path / "b.pt2") as archive:
        for name in archive.namelist():
            if "/weights/" not in name:
                assert not archive.read(name).startswith((b"PK", b"\x80"))


# --- whole exports ------------------------------------------------------------------------------


def run_blocks(folder: Path, expected: set[str]) -> None:
    """Run the code of a model card beside the export."""
    Image.fromarray(np.arange(50 * 40 * 3, dtype=np.uint8).reshape(50, 40, 3)).save(
        folder / "photo.jpg"
    )
    text = (folder / "out" / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^([\w.]+):\n\n```python\n(.*?)```", text, re.MULTILINE | re.DOTALL)
    assert {title for title, _ in found} == expected
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setenv("HF_HUB_OFFLINE", "1")
        for title, code in found:
            names: dict[str, Any] = {}
            exec(compile(code, f"model card, {title}", "exec"), names)
            if "features" in names:
                assert names["features"].shape[0] == 1


@pytest.mark.slow
def test_one_folder_opens_in_timm_and_transformers(tmp_path: Path) -> None:
    result = export(
        saved(encoder_of("resnet18"), tmp_path),
        tmp_path / "out",
        formats=["safetensors", "timm"],
        license="cc-by-4.0",
        data="demo:20",
    )
    assert {each.reader for each in result.comparisons} == {"torchvision", "timm", "transformers"}
    for each in result.comparisons:
        assert each.difference < 1e-5 * each.largest
        assert each.cosine > 0.999999
    assert result.compared_on == "16 of 20 images of the demo world (seed 0)"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architecture"] == "resnet18"
    assert config["pretrained_cfg"]["mean"] == [0.4, 0.5, 0.6]
    text = (tmp_path / "out" / "README.md").read_text()
    front = text.split("---\n")[1]
    assert "library_name: timm\n" in front
    assert "pipeline_tag: image-feature-extraction\n" in front
    assert "license: cc-by-4.0\n" in front
    run_blocks(tmp_path, {"ssltool", "torchvision", "timm", "transformers"})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm/test_vit,patch_size=8", "timm/test_convnext"])
def test_a_network_of_timm_in_every_format(name: str, tmp_path: Path) -> None:
    weights = saved(encoder_of(name), tmp_path)
    result = export(
        weights,
        tmp_path / "out",
        formats=["safetensors", "timm", "onnx", "torch"],
        data="demo:8",
    )
    readers = {each.reader for each in result.comparisons}
    assert {"timm", "transformers", "onnxruntime", "torch.export"} <= readers
    assert all(each.difference < 1e-4 for each in result.comparisons)


@pytest.mark.slow
def test_a_fixed_norm_is_measured(tmp_path: Path) -> None:
    weights = saved(standardized(encoder_of("resnet18", in_channels=1), "channels"), tmp_path)
    with pytest.raises(UsageError, match="--fixed-norm"):
        export(weights, tmp_path / "out", formats=["timm"])
    assert not (tmp_path / "out").exists()
    result = export(weights, tmp_path / "out", formats=["timm"], fixed_norm=True)
    assert result.similarity is not None
    assert 0.3 < result.similarity < 0.99999
    assert f"{result.similarity:.4f}" in (tmp_path / "out" / "README.md").read_text()
    assert result.metadata.standardize == "data"


@pytest.mark.slow
def test_nothing_is_kept_of_an_export_that_computes_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = timm.write

    def spoiled(encoder: Encoder, folder: Path) -> Any:
        found = write(encoder, folder)
        tensors = load_file(folder / "model.safetensors")
        tensors["conv1.weight"] = tensors["conv1.weight"] * 1.01
        save_file(tensors, folder / "model.safetensors")
        return found

    weights = saved(encoder_of("resnet18"), tmp_path)
    before = set(tmp_path.iterdir())
    monkeypatch.setattr(timm, "write", spoiled)
    with pytest.raises(WeightsError, match=r"timm computes features .* that differ by"):
        export(weights, tmp_path / "out", formats=["timm"])
    assert set(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_a_file_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    encoder = encoder_of("resnet10_w32")
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    job = comparison.Job("onnxruntime", tmp_path / "a.onnx", {"uint8": False})
    images = torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8)
    with pytest.raises(WeightsError, match="onnxruntime cannot open it") as caught:
        comparison.compare(encoder, images, [job])
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    weights = saved(encoder_of("resnet18"), tmp_path)
    for name in ("timm", "onnx"):
        with pytest.raises(SslToolError, match=rf"pip install 'ssltool\[{name}\]'"):
            export(weights, tmp_path / "out", formats=[name])  # type: ignore[list-item]
        assert not (tmp_path / "out").exists()

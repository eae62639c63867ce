from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.metadata import EncoderMetadata, TrainingSummary
from ssltool.encoders.registry import build_encoder
from ssltool.encoders.transform import InputTransform
from ssltool.encoders.weights import (
    describe,
    find_weights,
    has_metadata,
    load_backbone,
    load_encoder,
    load_plain,
    read_metadata,
    save_encoder,
)
from ssltool.errors import SslToolError, UsageError, WeightsError

CLASSIFIERS = {
    "alexnet": "classifier",
    "convnext_tiny": "classifier.2",
    "densenet121": "classifier",
    "efficientnet_b0": "classifier",
    "mobilenet_v2": "classifier",
    "mobilenet_v3_small": "classifier",
    "regnet_y_400mf": "fc",
    "resnet18": "fc",
    "resnext50_32x4d": "fc",
    "shufflenet_v2_x0_5": "fc",
    "swin_t": "head",
    "vgg11": "classifier",
    "vit_b_16": "heads",
}


SUMMARY = TrainingSummary(
    ssltool="0.1.0",
    steps=100,
    batch_size=8,
    images=1000,
    read_size=96,
    optimizer="sgd",
    lr=0.1,
    seed=0,
    precision="fp32",
)


def metadata_of(encoder: Encoder, **changes) -> EncoderMetadata:
    fields = {
        "method": "jigsaw",
        "color_space": "rgb" if encoder.in_channels == 3 else "lightness",
        "image_size": 64,
        "mean": (0.5,) * encoder.in_channels,
        "std": (0.25,) * encoder.in_channels,
        "training": SUMMARY,
    }
    return describe(encoder, **{**fields, **changes})


def tiny(seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return build_encoder("resnet20")


@pytest.fixture
def written(tmp_path: Path) -> Path:
    encoder = tiny()
    path = tmp_path / "encoder.safetensors"
    save_encoder(encoder, metadata_of(encoder), path)
    return path


def refused(action, *words: str, error: type[SslToolError] = WeightsError) -> str:
    """The one-line message of the error that ``action`` raises; it holds all ``words``."""
    with pytest.raises(error) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


def plain_model(
    name: str, tensors: dict[str, torch.Tensor], **options
) -> tuple[nn.Module, list[str], list[str]]:
    """torchvision's own model with the file's tensors, and the keys that are missing and
    unexpected.
    """
    # RegNet computes its widths with tensors, so it cannot be built without memory as the others
    # are, to save time.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        model = torchvision.models.get_model(name, **options)
    keys = model.load_state_dict(tensors, strict=False, assign=True)
    return model.eval(), keys.missing_keys, keys.unexpected_keys


LARGE = ("vgg11", "resnext50_32x4d", "vit_b_16", "swin_t", "convnext_tiny", "densenet121")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in LARGE else ()) for n in CLASSIFIERS]
)
def test_plain_torchvision_takes_the_file_and_gives_the_same_features(name, tmp_path):
    torch.manual_seed(0)
    options = {"image_size": 32} if name.startswith("vit") else {}
    encoder = build_encoder(name, **options).eval()
    path = tmp_path / "w.safetensors"
    save_encoder(encoder, metadata_of(encoder), path)
    model, missing, unexpected = plain_model(name, load_file(path), **options)
    prefix = CLASSIFIERS[name] + "."
    assert unexpected == []
    assert missing
    assert all(key.startswith(prefix) for key in missing)
    assert set(missing) == {key for key in model.state_dict() if key.startswith(prefix)}
    model.set_submodule(CLASSIFIERS[name], nn.Identity())
    side = encoder.image_size or 64
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        # torchvision hands AlexNet's and VGG's classifier 6x6 and 7x7 maps; ours are averaged.
        theirs = model.features(x).mean(dim=(2, 3)) if name in ("alexnet", "vgg11") else model(x)
        torch.testing.assert_close(encoder(x), theirs, rtol=1e-6, atol=1e-6)


def test_resnet18_misses_only_fc(tmp_path):
    encoder = build_encoder("resnet18")
    save_encoder(encoder, metadata_of(encoder), tmp_path / "w.safetensors")
    keys = torchvision.models.resnet18().load_state_dict(
        load_file(tmp_path / "w.safetensors"), strict=False
    )
    assert keys.missing_keys == ["fc.weight", "fc.bias"]
    assert keys.unexpected_keys == []


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet20", {"in_channels": 1}),
        ("resnet18", {"stem": "small"}),
        ("caffenet", {}),
        ("mobilenet_v3_small", {"in_channels": 1}),
        pytest.param("regnet_y_400mf", {}, marks=pytest.mark.slow),
    ],
)
def test_round_trip_is_bit_for_bit(name, options, tmp_path):
    encoder = build_encoder(name, **options)
    encoder.train()(
        torch.randn(2, encoder.in_channels, 64, 64)
    )  # moves batch norm's statistics and its step count
    metadata = metadata_of(encoder)
    save_encoder(encoder, metadata, tmp_path / "w.safetensors")
    state = torch.random.get_rng_state()
    loaded = load_encoder(tmp_path / "w.safetensors")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert loaded.metadata == metadata == read_metadata(tmp_path / "w.safetensors")
    assert not loaded.training
    before, after = encoder.state_dict(), loaded.state_dict()
    assert list(before) == list(after)
    for key, tensor in before.items():
        assert tensor.dtype == after[key].dtype
        assert torch.equal(tensor, after[key])
    assert (loaded.stem, loaded.in_channels, loaded.stages) == (
        encoder.stem,
        encoder.in_channels,
        encoder.stages,
    )
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    x = torch.randn(2, encoder.in_channels, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(x), encoder.eval()(x))


def test_loaded_weights_do_not_depend_on_the_file(written):
    loaded = load_encoder(written)
    before = {key: value.clone() for key, value in loaded.state_dict().items()}
    written.write_bytes(bytes(written.stat().st_size))  # in place, as no command of ours would
    assert all(torch.equal(value, before[key]) for key, value in loaded.state_dict().items())


@pytest.mark.slow
def test_a_vit_is_rebuilt_for_its_own_size(tmp_path):
    encoder = build_encoder("vit_b_32", image_size=64, last_stage="block3")
    metadata = metadata_of(encoder, image_size=224)
    assert metadata.image_size == 64
    save_encoder(encoder, metadata, tmp_path / "w.safetensors")
    assert load_encoder(tmp_path / "w.safetensors").image_size == 64


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mean=st.tuples(*[st.floats(-1, 2)] * 3),
    std=st.tuples(*[st.floats(1e-4, 100)] * 3),
    image_size=st.integers(8, 1024),
    training=st.none()
    | st.builds(
        TrainingSummary.model_copy,
        st.just(SUMMARY),
        update=st.fixed_dictionaries(
            {
                "ssltool": st.text(max_size=8),
                "steps": st.integers(0, 2**60),
                "lr": st.floats(0, 1e9),
            }
        ),
    ),
)
def test_metadata_survives_a_round_trip(tmp_path, mean, std, image_size, training):
    encoder = tiny()
    metadata = metadata_of(encoder, mean=mean, std=std, image_size=image_size, training=training)
    save_encoder(encoder, metadata, tmp_path / "w.safetensors")
    assert read_metadata(tmp_path / "w.safetensors") == metadata


@pytest.mark.slow
@pytest.mark.ci
def test_equal_weights_and_metadata_give_equal_bytes_in_every_process(written, tmp_path):
    encoder = load_encoder(written)
    save_encoder(encoder, encoder.metadata, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == written.read_bytes()
    code = (
        "import sys; from pathlib import Path; from ssltool.encoders.weights import *; "
        "e = load_encoder(Path(sys.argv[1])); save_encoder(e, e.metadata, Path(sys.argv[2]))"
    )
    other = tmp_path / "other.safetensors"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(
        [sys.executable, "-c", code, str(written), str(other)], env=environment, check=True
    )
    assert other.read_bytes() == written.read_bytes()


def test_metadata_is_readable_json_under_one_key(written):
    with safe_open(written, framework="pt") as opened:
        metadata = opened.metadata()
    assert list(metadata) == ["ssltool"]
    document = json.loads(metadata["ssltool"])
    assert document["method"] == "jigsaw"
    assert document["stages"][0] == ["stem", 16, 1]
    assert list(document) == sorted(document)


def test_run_folder_stands_for_its_file(written):
    assert find_weights(written.parent) == written
    assert load_encoder(written.parent).name == "resnet20"


def test_nothing_there(tmp_path):
    none = tmp_path / "none"
    for read in (find_weights, read_metadata, has_metadata, load_encoder):
        refused(lambda read=read: read(none), "there is no file", "none", error=UsageError)
        refused(lambda read=read: read(tmp_path), "holds no encoder.safetensors", error=UsageError)


@pytest.mark.parametrize("keep", [0, 3, 8, 9, 500, 0.5, 0.999])
def test_cut_off_files_are_refused(written, keep):
    content = written.read_bytes()
    written.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    refused(lambda: load_encoder(written), str(written))
    refused(lambda: load_backbone(tiny(), written), str(written))


def test_half_a_file_is_called_cut_off(written):
    written.write_bytes(written.read_bytes()[:-1])
    refused(lambda: load_encoder(written), "cut off or damaged")


def test_text_is_not_safetensors(tmp_path):
    (tmp_path / "notes.txt").write_text("not weights at all, just words\n")
    refused(lambda: load_encoder(tmp_path / "notes.txt"), "is not a safetensors file")


def test_pickles_are_never_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
    (tmp_path / "old.pth").write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
    for name in ("model.pt", "old.pth"):
        refused(
            lambda name=name: load_encoder(tmp_path / name),
            "is a pickle",
            "never read",
            "save_file",
        )
        refused(lambda name=name: load_backbone(tiny(), tmp_path / name), "is a pickle")


def test_plain_weights_have_no_metadata_but_load_into_an_encoder(tmp_path):
    path = tmp_path / "plain.safetensors"
    plain = torchvision.models.resnet18()
    save_file(plain.state_dict(), path)
    refused(lambda: load_encoder(path), "no 'ssltool' metadata", "--init")
    encoder = build_encoder("resnet18")
    assert load_backbone(encoder, path) == len(plain.state_dict()) - 2 == 120
    assert torch.equal(encoder.backbone.layer4[1].conv2.weight, plain.layer4[1].conv2.weight)


def test_another_backbone_is_named_with_shapes_and_changes_nothing(tmp_path):
    path = tmp_path / "w.safetensors"
    small = build_encoder("resnet18", stem="small")
    save_encoder(small, metadata_of(small), path)
    encoder = build_encoder("resnet18")
    before = {key: tensor.clone() for key, tensor in encoder.state_dict().items()}
    refused(
        lambda: load_backbone(encoder, path),
        "does not fit resnet18 (stem imagenet, 3 channels)",
        "conv1.weight is [64, 3, 3, 3] float32 instead of [64, 3, 7, 7] float32",
        "written for --backbone resnet18 --stem small",
    )
    assert all(torch.equal(tensor, before[key]) for key, tensor in encoder.state_dict().items())


def test_missing_and_unexpected_keys_are_named(tmp_path):
    tensors = dict(tiny().backbone.state_dict())
    tensors["extra.weight"] = tensors.pop("layer1.0.conv1.weight")
    tensors["layer1.0.bn1.weight"] = torch.zeros(16, dtype=torch.int64)
    save_file(tensors, tmp_path / "w.safetensors")
    refused(
        lambda: load_backbone(tiny(), tmp_path / "w.safetensors"),
        "layer1.0.conv1.weight is missing",
        "extra.weight is unexpected",
        "layer1.0.bn1.weight is [16] int64 instead of [16] float32",
        "name the --backbone and --stem",
    )


def test_only_the_first_faults_are_named_and_the_rest_counted(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(dict(list(tiny().backbone.state_dict().items())[:10]), path)
    total = len(tiny().backbone.state_dict()) - 10
    counts = sum(
        key.endswith("num_batches_tracked") for key in list(tiny().backbone.state_dict())[10:]
    )
    refused(lambda: load_backbone(tiny(), path), f"and {total - counts - 3} more")


def test_step_counts_may_be_missing(tmp_path):
    source = tiny(1)
    tensors = {
        k: t
        for k, t in source.backbone.state_dict().items()
        if not k.endswith("num_batches_tracked")
    }
    save_file(tensors, tmp_path / "w.safetensors")
    encoder = tiny(2)
    assert load_backbone(encoder, tmp_path / "w.safetensors") == len(tensors)
    assert torch.equal(encoder.backbone.conv1.weight, source.backbone.conv1.weight)
    built, _, _ = load_plain(tmp_path / "w.safetensors", "resnet20", "small", 32)
    assert not any(tensor.is_meta for tensor in built.state_dict().values())
    assert built.backbone.bn1.num_batches_tracked == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(written, tmp_path, value):
    encoder = load_encoder(written)
    with torch.no_grad():
        encoder.backbone.layer2[0].bn1.running_var[3] = value
    save_encoder(encoder, encoder.metadata, tmp_path / "bad.safetensors")
    refused(
        lambda: load_encoder(tmp_path / "bad.safetensors"),
        "NaN or infinite",
        "layer2.0.bn1.running_var",
    )


def rewrite(path: Path, text: str) -> None:
    save_file(load_file(path), path, metadata={"ssltool": text})


def test_wrong_metadata_are_one_line(written):
    fields = json.loads(json.dumps(read_metadata(written).model_dump(mode="json")))
    for change, words in [
        ({"format": 3}, "format 3 and this ssltool reads format 2"),
        ({"format": 1}, "written by an older ssltool"),
        ({"training": {"steps": 3}}, "training.ssltool: is required"),
        ({"stages": []}, "stages:"),
        ({"stem": "tiny"}, "stem:"),
        ({"surprise": 1}, "surprise:"),
        ({"backbone": "resnet19"}, "unknown backbone 'resnet19'"),
        ({"width": 65}, "lists other stages"),
        ({"backbone": "resnet32"}, "layer1.3.conv1.weight is missing"),
        ({"mean": [0.5]}, "mean and std need 3 values"),
    ]:
        rewrite(written, json.dumps({**fields, **change}))
        refused(lambda: load_encoder(written), words)
    rewrite(written, "[1, 2]")
    refused(lambda: read_metadata(written), "wrong metadata")
    for damaged in ("{", "[" * 100_000, '{"format": ' + "9" * 5000 + "}"):
        rewrite(written, damaged)
        refused(lambda: read_metadata(written), "unreadable metadata")


@pytest.mark.parametrize("norm", ["batch", "ln", "ln2d", "none"])
def test_norm_and_cut_survive_the_file(norm, tmp_path):
    torch.manual_seed(0)
    encoder = build_encoder("resnet18", norm=norm, last_stage="layer3").eval()
    path = tmp_path / "w.safetensors"
    save_encoder(encoder, metadata_of(encoder, patch=(16, 8)), path)
    loaded = load_encoder(path)
    assert (loaded.norm, loaded.stages, loaded.width) == (norm, encoder.stages, 256)
    assert loaded.metadata.patch == (16, 8)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(x), encoder(x))
    # The kept part has torchvision's keys: only what was cut, the classifier and running statistics
    # are missing.
    model = torchvision.models.resnet18()
    keys = model.load_state_dict(load_file(path), strict=False)
    assert keys.unexpected_keys == []
    counted = ("running_mean", "running_var", "num_batches_tracked")
    rest = [key for key in keys.missing_keys if not key.startswith(("layer4.", "fc."))]
    assert all(key.endswith(counted) for key in rest)
    assert bool(rest) == (norm != "batch")


def test_files_without_a_norm_are_of_batch_norm(written):
    fields = read_metadata(written).model_dump(mode="json")
    del fields["norm"], fields["patch"]
    rewrite(written, json.dumps(fields))
    assert load_encoder(written).norm == "batch"
    assert read_metadata(written).patch is None


def test_weights_of_another_norm_are_refused_with_what_they_are(tmp_path):
    encoder = build_encoder("resnet20", norm="ln", last_stage="layer2")
    save_encoder(encoder, metadata_of(encoder), tmp_path / "w.safetensors")
    refused(
        lambda: load_backbone(tiny(), tmp_path / "w.safetensors"),
        "is missing",
        "norm ln, up to layer2",
    )


def test_metadata_must_make_sense_when_written():
    encoder = tiny()
    for change in (
        {"mean": (0.5,)},
        {"std": (0.0, 0.1, 0.1)},
        {"training": {**SUMMARY.model_dump(), "lr": float("nan")}},
        {"image_size": 0},
    ):
        with pytest.raises(ValidationError):
            metadata_of(encoder, **change)


def test_metadata_of_another_encoder_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="not this resnet20"):
        save_encoder(tiny(), metadata_of(build_encoder("resnet10_w32")), tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_weights_in_another_memory_format_are_saved_as_usual(tmp_path, written):
    encoder = load_encoder(written).to(memory_format=torch.channels_last)
    save_encoder(encoder, encoder.metadata, tmp_path / "w.safetensors")
    assert (tmp_path / "w.safetensors").read_bytes() == written.read_bytes()


def test_an_encoder_without_a_file_has_no_metadata(written):
    with pytest.raises(RuntimeError, match="not loaded from a file"):
        _ = tiny().metadata


def test_a_loaded_encoder_has_its_transform_and_read_size(written, tmp_path):
    encoder = load_encoder(written)
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    expected = InputTransform.of(encoder.metadata, 64)(images)
    assert torch.equal(encoder.transform(images), expected)
    assert encoder.metadata.read_size == 96
    plain = metadata_of(encoder, training=None)
    assert plain.read_size == plain.image_size == 64


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_size": 20_000}, "image_size: should be at most 1024"),
        ({"image_size": 7}, "image_size:"),
        ({"image_size": -32}, "image_size:"),
        ({"image_size": 2**62}, "image_size:"),
        ({"image_size": 32.5}, "image_size:"),
        ({"image_size": [32]}, "image_size:"),
        ({"training": {**SUMMARY.model_dump(), "read_size": 20_000}}, "training.read_size:"),
        ({"training": {**SUMMARY.model_dump(), "images": 0}}, "training.images:"),
        ({"training": {**SUMMARY.model_dump(), "seed": -1}}, "training.seed:"),
        ({"training": {**SUMMARY.model_dump(), "optimizer": "x" * 1000}}, "training.optimizer:"),
        ({"patch": [1, 1]}, "96x96 patches are more than 64x64"),
        ({"patch": [16, 0]}, "patch.1:"),
        ({"patch": [-16, 8]}, "patch.0:"),
        ({"patch": [512, 8]}, "patch 512 px is larger than images of"),
        ({"patch": [16]}, "patch"),
        ({"mean": [0.5, 0.5, 1e300]}, "mean.2:"),
        ({"std": [0.5, 0.5, 1e-30]}, "std.2:"),
        ({"std": [0.5, 0.5, 1e30]}, "std.2:"),
        ({"width": 0}, "width:"),
        ({"width": 2**62}, "lists other stages"),
        ({"stages": [["layer1", 16, 1]] * 1000}, "stages:"),
        ({"stages": [["layer9", 16, 1]]}, "unknown stage"),
        ({"in_channels": 3_000_000}, "in_channels:"),
        ({"backbone": "x" * 100_000}, "backbone:"),
        (
            {"backbone": "vit_b_16", "stem": "imagenet", "image_size": 40},
            "multiple of its 16 px patch",
        ),
        ({"backbone": []}, "backbone:"),
        ({"format": 10**18}, "reads format 2"),
    ],
)
def test_every_field_is_bounded_by_what_the_encoder_can_take(written, change, words):
    fields = read_metadata(written).model_dump(mode="json")
    rewrite(written, json.dumps({**fields, **change}))
    assert len(refused(lambda: load_encoder(written), words)) < 600


@pytest.mark.parametrize("text", ["[" * 50_000 + "]" * 50_000, '{"a": 1, "a": 1}', '{"a": NaN}'])
def test_metadata_that_are_no_plain_json_are_refused(written, text):
    rewrite(written, text)
    refused(lambda: load_encoder(written), "unreadable metadata")


def test_images_that_are_too_small_for_the_encoder_are_refused(tmp_path):
    encoder = build_encoder("alexnet")
    path = tmp_path / "w.safetensors"
    save_encoder(encoder, metadata_of(encoder, image_size=16), path)
    refused(lambda: load_encoder(path), "asks for 16 px images, which alexnet cannot take")

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ssltool.data.sources.registry import open_source
from ssltool.encoders.metadata import EncoderMetadata, TrainingSummary
from ssltool.encoders.registry import build_encoder
from ssltool.encoders.weights import describe
from ssltool.probing import extraction
from ssltool.probing.datasets import LabeledImages
from ssltool.probing.extraction import (
    EncoderVariant,
    Extractor,
    Features,
    encoder_variants,
    hash_of_encoder,
    hash_of_tensors,
    in_blocks,
    pixel_digests,
    pixel_source,
    random_init,
    recalibrate,
)
from ssltool.probing.features import Grid
from ssltool.probing.store import FeatureStore

CPU = torch.device("cpu")


def variant(seed: int = 0, image_size: int = 16, mean: float = 0.5) -> EncoderVariant:
    torch.manual_seed(seed)
    encoder = build_encoder("resnet20", image_size=16).eval()
    metadata = describe(
        encoder,
        method="npid",
        color_space="rgb",
        image_size=image_size,
        mean=(mean,) * 3,
        std=(0.25,) * 3,
    )
    return encoder_variants(encoder, metadata, "pretrained")[0]


def twins() -> list[EncoderVariant]:
    """Two networks of equal tensors, one with a stride of two in its first convolution."""
    made = []
    for backbone in ("resnet10_w32", "resnet10_w32_s2"):
        torch.manual_seed(0)
        encoder = build_encoder(backbone, image_size=32).eval()
        described: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
        metadata = describe(encoder, method="npid", color_space="rgb", image_size=32, **described)
        made += encoder_variants(encoder, metadata, "pretrained")
    return made


def folder(root: Path, count: int = 6, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for name in "ab":
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.bmp")
    return root


def extracted(
    train: Path, test: Path, store: FeatureStore, *, batch_size: int = 4, **options: object
) -> Features:
    data = LabeledImages((str(train),), (str(test),), workers=0, batch_size=batch_size)
    extractor = Extractor(data, store, CPU, **options)
    return next(iter(extractor.features([variant()], with_pixels=False).values()))[0]


def test_a_second_folder_with_the_same_names_has_its_own_features(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "cache")
    one, two, test = (folder(tmp_path / name, seed=i) for i, name in enumerate("uvw"))
    first, second = extracted(one, test, store), extracted(two, test, store)
    assert not torch.equal(first.train.stages["pooled"], second.train.stages["pooled"])
    same_names = extracted(one, two, store)
    assert not torch.equal(same_names.train.stages["pooled"], same_names.test.stages["pooled"])


def repaint(path: Path) -> None:
    """Other pixels in a file of the same length."""
    pixels = np.asarray(Image.open(path)).copy()
    pixels[3, 3] ^= 255
    Image.fromarray(pixels).save(path)


Change = Callable[[Path, dict[str, object]], None]
CHANGES: dict[str, Change] = {
    "pixels of an image": lambda root, _: repaint(root / "train/a/1.bmp"),
    "modification time": lambda root, _: os.utime(root / "train/a/1.bmp", (1, 1)),
    "an image more": lambda root, _: shutil.copy(root / "test/a/1.bmp", root / "train/a/9.bmp"),
    "an image less": lambda root, _: (root / "train/a/1.bmp").unlink(),
    "the name of an image": lambda root, _: (root / "train/a/1.bmp").rename(root / "train/a/z.bmp"),
    "the root": lambda root, _: shutil.move(root / "train", root / "other"),
    "grid": lambda _, options: options.update(grid=Grid(64)),
    "recalibration": lambda _, options: options.update(recalibrate=False),
    "seed": lambda _, options: options.update(seed=1),
    "weights": lambda _, options: options.update(variant=variant(seed=1)),
    "image size": lambda _, options: options.update(variant=variant(image_size=20)),
    "normalization": lambda _, options: options.update(variant=variant(mean=0.4)),
    "threads": lambda _, options: options.update(threads=2),
    "decoding": lambda _, options: options.update(decoding="another Pillow"),
}


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Keys of the training and the test features."""
    root = tmp_path / "d"
    folder(root / "train", seed=0)
    folder(root / "test", seed=1)

    def compute(**options: object) -> list[str]:
        threads = torch.get_num_threads()
        torch.set_num_threads(int(options.pop("threads", threads)))
        decoding = options.pop("decoding", None)
        if decoding is not None:
            monkeypatch.setattr(extraction, "decode_identity", lambda: decoding)
        chosen = options.pop("variant", None) or variant()
        train = root / "train" if (root / "train").exists() else root / "other"
        data = LabeledImages((str(train),), (str(root / "test"),), workers=0)
        job = Extractor(data, FeatureStore(None), CPU, **options)._network_job(chosen)
        torch.set_num_threads(threads)
        return [job.key(data, "train"), job.key(data, "test")]

    return compute


def test_equal_weights_of_another_architecture_have_their_own_features(
    keys: Callable[..., list[str]],
) -> None:
    plain, strided = twins()
    assert hash_of_tensors(plain.network) == hash_of_tensors(strided.network)
    a, b = (hash_of_encoder(one.network, one.metadata) for one in (plain, strided))
    assert a != b
    assert not set(keys(variant=plain)) & set(keys(variant=strided))


OTHER_METADATA: dict[str, object] = {
    "backbone": "resnet18",
    "timm": "1.0.0",
    "stem": "imagenet",
    "norm": "ln",
    "in_channels": 1,
    "color_space": "lab",
    "converted_from": "lightness",
    "image_size": 20,
    "patch": (8, 4),
    "value_range": ((0.0, 255.0),) * 3,
    "value_type": "uint16",
    "mean": (0.4,) * 3,
    "std": (0.2,) * 3,
    "standardize": "image",
    "stages": (("stem", 16, 2),),
    "width": 65,
}


@pytest.mark.parametrize("field", EncoderMetadata.model_fields)
def test_every_field_that_decides_features_changes_every_identity(field: str) -> None:
    network, metadata = variant().network, variant().metadata
    if field in OTHER_METADATA:
        other = metadata.model_copy(update={field: OTHER_METADATA[field]})
    else:
        assert field in {"format", "method", "training"}  # of no consequence
        fields = dict.fromkeys(TrainingSummary.model_fields, 1)
        training = TrainingSummary.model_construct(**{**fields, "read_size": 16})
        other = metadata.model_copy(update={"method": "jigsaw", "training": training})
    equal = field not in OTHER_METADATA
    assert (hash_of_encoder(network, other) == hash_of_encoder(network, metadata)) == equal
    random = [
        encoder_variants(network, each, "random_init")[0].source for each in (metadata, other)
    ]
    assert (random[0] == random[1]) == equal
    read_otherwise = field in {"image_size", "value_range", "value_type"}
    assert (pixel_source(metadata) != pixel_source(other)) == read_otherwise


def test_the_side_at_which_files_are_read_changes_every_identity() -> None:
    network, metadata = variant().network, variant().metadata
    fields = dict.fromkeys(TrainingSummary.model_fields, 1)
    training = TrainingSummary.model_construct(**{**fields, "read_size": 20})
    other = metadata.model_copy(update={"training": training})
    assert hash_of_encoder(network, other) != hash_of_encoder(network, metadata)
    assert pixel_source(other) != pixel_source(metadata)


@pytest.mark.parametrize("change", CHANGES)
def test_any_single_change_changes_the_key(
    tmp_path: Path, keys: Callable[..., list[str]], change: str
) -> None:
    before = keys()
    assert keys() == before
    options: dict[str, object] = {}
    CHANGES[change](tmp_path / "d", options)
    after = keys(**options)
    assert after[0] != before[0]
    assert after[1] != before[1]  # batch norm is estimated on the training images


def test_the_splits_of_one_folder_never_share_a_key(tmp_path: Path) -> None:
    data = LabeledImages((str(folder(tmp_path / "p")),), workers=0)
    job = Extractor(data, FeatureStore(None), CPU, recalibrate=False)._network_job(variant())
    assert job.key(data, "train") != job.key(data, "test")


def test_images_that_cannot_be_identified_are_never_found_in_the_cache(tmp_path: Path) -> None:
    class Noise(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 12

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return torch.full((3, 16, 16), 20 * index, dtype=torch.uint8), index % 2

    data = LabeledImages(open_source(Noise()), workers=0)
    extractor = Extractor(data, FeatureStore(tmp_path), CPU)
    assert extractor._network_job(variant()).key(data, "train") != extractor._network_job(
        variant()
    ).key(data, "train")
    ((features,),) = extractor.features([variant()], with_pixels=False).values()
    assert len(features.train.indices) + len(features.test.indices) == 12


def test_the_batch_size_changes_nothing(tmp_path: Path) -> None:
    train, test = folder(tmp_path / "u", 20), folder(tmp_path / "v", 7, seed=1)
    stores = [FeatureStore(None) for _ in range(3)]
    parts = [
        extracted(train, test, store, batch_size=size)
        for store, size in zip(stores, (1, 7, 64), strict=True)
    ]
    for part in parts[1:]:
        for split in ("train", "test"):
            a, b = getattr(parts[0], split), getattr(part, split)
            assert torch.equal(a.indices, b.indices)
            assert torch.equal(a.digests, b.digests)
            assert all(torch.equal(a.stages[name], b.stages[name]) for name in a.stages)


@given(
    st.lists(st.booleans(), max_size=40),
    st.lists(st.integers(1, 40), max_size=5),
    st.integers(1, 8),
)
def test_blocks_are_the_same_whatever_is_read_at_a_time(
    readable: list[bool], ends: list[int], size: int
) -> None:
    read = torch.tensor([i for i, whole in enumerate(readable) if whole], dtype=torch.int64)
    batches = [part for part in torch.tensor_split(read, sorted(ends)) if len(part)]
    blocks = list(in_blocks(((part.view(-1, 1).byte(), part) for part in batches), size))
    expected: dict[int, list[int]] = {}
    for index in read.tolist():
        expected.setdefault(index // size, []).append(index)
    assert [block.indices.tolist() for block in blocks] == list(expected.values())
    assert all(torch.equal(block.images.flatten().long(), block.indices) for block in blocks)


def test_batch_norm_of_images_sorted_by_class_has_the_variance_of_the_set(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, level in (("dark", 20), ("light", 200)):
        (tmp_path / name).mkdir()
        for i in range(60):
            pixels = (level + rng.integers(0, 20, (16, 16, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i:02d}.png")
    data = LabeledImages((str(tmp_path),), workers=0, batch_size=8)
    chosen = variant()
    monitored = chosen.network.backbone.conv1
    recalibrate([chosen], data, seed=0)
    images = torch.cat([x for x, _ in data.batches("train", 16)])
    with torch.no_grad():
        maps = monitored(chosen.transform(images)).transpose(0, 1).flatten(1)
    norm = chosen.network.backbone.bn1
    assert torch.allclose(norm.running_mean, maps.mean(1), rtol=0.05, atol=0.05)
    ratio = norm.running_var / maps.var(1)
    assert float(ratio.min()) > 0.95
    assert float(ratio.max()) < 1.05


def test_recalibration_is_a_function_of_the_seed_not_of_the_batch_size(tmp_path: Path) -> None:
    folder(tmp_path / "p", 20)
    states = []
    for batch_size, seed in ((3, 0), (40, 0), (40, 1)):
        data = LabeledImages((str(tmp_path / "p"),), workers=0, batch_size=batch_size)
        chosen = variant()
        recalibrate([chosen], data, seed)
        states.append(chosen.network.backbone.bn1.running_var.clone())
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[1], states[2])


def test_digests_tell_images_apart() -> None:
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    images[4] = images[1]
    digests = pixel_digests(images)
    assert digests[4] == digests[1]
    assert len(set(digests.tolist())) == 5
    channels_last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(pixel_digests(channels_last), digests)


def test_random_inits_are_functions_of_the_seed_alone() -> None:
    encoder = build_encoder("resnet20", image_size=16)
    state = torch.random.get_rng_state()
    first, again, other = (random_init(encoder, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [network.backbone.conv1.weight for network in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save_file

from ssltool.encoders.registry import build_encoder
from ssltool.encoders.transform import InputTransform
from ssltool.encoders.weights import describe, load_encoder, save_encoder
from ssltool.errors import UsageError
from ssltool.probing.embed import embed, read_classes
from ssltool.probing.options import EmbedOptions

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    encoder = build_encoder("resnet20")
    path = tmp_path_factory.mktemp("weights") / "encoder.safetensors"
    statistics = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    save_encoder(
        encoder,
        describe(encoder, method="x", color_space="rgb", image_size=32, **statistics),
        path,
    )
    return path


@pytest.mark.parametrize("form", [".safetensors", ".npz", ".parquet"])
def test_every_image_has_its_vector(weights: Path, tmp_path: Path, form: str) -> None:
    if form == ".parquet":
        pytest.importorskip("pyarrow")
    to = tmp_path / f"embedding{form}"
    options = EmbedOptions.checked(
        weights=weights, data=("demo:12",), to=to, batch_size=5, workers=0
    )
    result = embed(options, QUIET)
    assert (result.images, result.dim, result.skipped) == (12, 64, {})
    if form == ".safetensors":
        with safe_open(to, framework="pt") as opened:
            values, labels = opened.get_tensor("features"), opened.get_tensor("labels")
            document = json.loads(opened.metadata()["ssltool_embedding"])
        names, classes = document["names"], document["classes"]
    elif form == ".npz":
        with np.load(to, allow_pickle=False) as opened:
            values, labels = (
                torch.from_numpy(opened["features"]),
                torch.from_numpy(opened["labels"]),
            )
            names, classes = opened["names"].tolist(), opened["classes"].tolist()
    else:
        from pyarrow import parquet

        table = parquet.read_table(to).to_pydict()
        values, names = torch.tensor(table["features"]), table["name"]
        names_of = dict(zip(table["label"], table["class_name"], strict=True))
        classes = [names_of[number] for number in range(10)]
        labels = torch.tensor(table["label"])
    from ssltool.data.sources.registry import open_source

    source = open_source(("demo:12",))
    assert names == [source.name(i) for i in range(12)]
    assert [classes[label] for label in labels.tolist()] == [
        source.classes[source.label(i) or 0] for i in range(12)
    ]
    encoder = load_encoder(weights)
    image = torch.from_numpy(source.read(7, 32).transpose(2, 0, 1).copy())[None]
    with torch.no_grad():
        expected = encoder(InputTransform(32, (0.5,) * 3, (0.25,) * 3)(image))[0]
    assert torch.allclose(values[7], expected, atol=1e-5)


def test_other_files_and_stages_are_refused(weights: Path, tmp_path: Path) -> None:
    given = {"weights": weights, "data": ("demo:4",)}
    with pytest.raises(UsageError, match=r"\.safetensors, \.npz or \.parquet"):
        embed(EmbedOptions.checked(**given, to=tmp_path / "a.csv"), QUIET)
    with pytest.raises(UsageError, match="pooled, stem, layer1"):
        embed(EmbedOptions.checked(**given, to=tmp_path / "a.npz", stage="layer9"), QUIET)


def painted(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (40 * number, 90, 200)).save(path)
    return root


def embedded(weights: Path, data: Path, to: Path, **options: Any) -> dict[str, Any]:
    asked = EmbedOptions.checked(weights=weights, data=(str(data),), to=to, workers=0, **options)
    embed(asked, Console(quiet=True))
    with np.load(to, allow_pickle=False) as arrays:
        return {name: arrays[name].tolist() for name in arrays}


def test_labels_of_the_splits_of_a_folder_are_numbered_together(
    weights: Path, tmp_path: Path
) -> None:
    painted(tmp_path / "train", "a/0.png", "b/0.png", "c/0.png")
    painted(tmp_path / "test", "a/0.png", "c/0.png")
    test = embedded(weights, tmp_path / "test", tmp_path / "test.npz")
    assert test["classes"] == ["a", "b", "c"]
    assert (test["labels"], test["class_names"]) == ([0, 2], ["a", "c"])


def test_labels_are_numbered_by_the_classes_of_another_file(weights: Path, tmp_path: Path) -> None:
    one, two = painted(tmp_path / "u", "a/0.png", "b/0.png"), painted(tmp_path / "v", "b/0.png")
    for name in ("u.npz", "u.safetensors"):
        asked = {"weights": weights, "data": (str(one),), "to": tmp_path / name, "workers": 0}
        embed(EmbedOptions.checked(**asked), Console(quiet=True))
        options = {"classes_from": tmp_path / name}
        second = embedded(weights, two, tmp_path / "v.npz", **options)
        assert (second["labels"], second["classes"]) == ([1], ["a", "b"])
    other = painted(tmp_path / "w", "d/0.png", "e/0.png")
    with pytest.raises(UsageError, match="lacks the class 'd'"):
        embedded(weights, other, tmp_path / "w.npz", classes_from=tmp_path / "u.npz")
    (tmp_path / "x.npz").write_bytes(b"no embedding")
    with pytest.raises(UsageError, match="--classes-from"):
        embedded(weights, other, tmp_path / "w.npz", classes_from=tmp_path / "x.npz")


def test_names_are_paths_that_exist(weights: Path, tmp_path: Path) -> None:
    data = painted(tmp_path / "p", "at 9.41\u202fAM.png", "tab\there.png", "$5 [x].png")
    names = embedded(weights, data, tmp_path / "e.npz")["names"]
    assert sorted(map(Path, names)) == sorted(data.iterdir())


def test_images_without_a_class_have_no_label(weights: Path, tmp_path: Path) -> None:
    data = painted(tmp_path / "p", "a/0.png", "loose.png")
    content = embedded(weights, data, tmp_path / "e.npz")
    assert sorted(zip(content["labels"], content["class_names"], strict=True)) == [
        (-1, ""),
        (0, "a"),
    ]


def zipped(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("classes.npy", content)
    return path


def npy(array: object) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_classes_are_read_from_both_kinds_of_file(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.npz", npy(np.array(["a", "b c"])))
    assert read_classes(path) == ("a", "b c")
    document = {"classes": ["a", "b c"], "names": ["1.png"]}
    metadata = {"ssltool_embedding": json.dumps(document)}
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors", metadata=metadata)
    assert read_classes(tmp_path / "a.safetensors") == ("a", "b c")


@pytest.mark.parametrize(
    "content",
    [
        npy(np.array([{}], dtype=object)),
        npy(np.array([1, 2])),
        npy(np.array("a")),
        npy(np.array(["a"]))[:-4] + b"\xff" * 4,
        b"\x93NUMPY",
        b"",
        bytes(2**27),  # 130 kB in the file
    ],
)
def test_damaged_classes_are_refused(tmp_path: Path, content: bytes) -> None:
    path = zipped(tmp_path / "a.npz", content)
    with pytest.raises(UsageError, match="--classes-from") as caught:
        read_classes(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"classes": 3}', '{"classes": [[]]}', "[" * 100_000, "9" * 5000]
)
def test_damaged_metadata_of_an_embedding_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata={"ssltool_embedding": text})
    with pytest.raises(UsageError, match="a file that 'ssltool embed' wrote is expected"):
        read_classes(path)

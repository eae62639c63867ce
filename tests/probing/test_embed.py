from __future__ import annotations

import csv
import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save_file

from ssltool.data.sources.registry import open_source
from ssltool.encoders.registry import build_encoder
from ssltool.encoders.transform import InputTransform
from ssltool.encoders.weights import describe, load_encoder, save_encoder
from ssltool.errors import SslToolError, UsageError
from ssltool.probing import embedding_files
from ssltool.probing.embed import compute, embed
from ssltool.probing.embedding_files import EmbeddingRows, Spool, read_classes, write
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


def read_back(path: Path) -> dict[str, Any]:
    """The content of an embedding file, by libraries that know nothing of ours; tables hold a row
    for each vector.
    """
    if path.suffix == ".safetensors":
        with safe_open(path, framework="np") as opened:
            document = json.loads(opened.metadata()["ssltool_embedding"])
            arrays = {name: opened.get_tensor(name) for name in ("features", "labels")}
        return {**arrays, **document, "labels": arrays["labels"].tolist()}
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as opened:
            found = {name: opened[name] for name in opened.files}
        return {n: v if n == "features" else v.tolist() for n, v in found.items()}
    if path.suffix == ".parquet":
        from pyarrow import parquet

        table = parquet.read_table(path).to_pydict()
        table["features"] = np.array(table["features"], np.float32)
    else:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            head, *lines = csv.reader(file)
        facts = [name for name in head if not name.isdecimal()]
        assert head[len(facts) :] == list(map(str, range(len(head) - len(facts))))
        table = {name: [line[i] or None for line in lines] for i, name in enumerate(facts)}
        numbers = [[float(v) for v in line[len(facts) :]] for line in lines]
        table["features"] = np.array(numbers, np.float32)
        for name in {"label", "y", "x"} & table.keys():
            table[name] = [None if v is None else int(v) for v in table[name]]
    labels = [-1 if label is None else label for label in table["label"]]
    named = {"names": table["name"], "class_names": [name or "" for name in table["class_name"]]}
    return {**table, **named, "labels": labels}


FORMS = [".safetensors", ".npz", ".parquet", ".csv"]


@pytest.mark.parametrize("form", FORMS)
def test_every_image_has_its_vector(weights: Path, tmp_path: Path, form: str) -> None:
    to = tmp_path / f"embedding{form}"
    options = EmbedOptions.checked(
        weights=weights, data=("demo:12",), to=to, batch_size=5, workers=0
    )
    result = embed(options, QUIET)
    assert (result.images, result.dim, result.grid, result.skipped) == (12, 64, None, {})
    content, source = read_back(to), open_source(("demo:12",))
    assert content["names"] == [source.name(i) for i in range(12)]
    classes = [source.classes[source.label(i) or 0] for i in range(12)]
    assert content["class_names"] == classes
    assert content["labels"] == [source.label(i) for i in range(12)]
    encoder = load_encoder(weights)
    image = torch.from_numpy(source.read(7, 32).transpose(2, 0, 1).copy())[None]
    with torch.no_grad():
        expected = encoder(InputTransform(32, (0.5,) * 3, (0.25,) * 3)(image))[0]
    assert torch.allclose(torch.from_numpy(content["features"][7].copy()), expected, atol=1e-5)


def test_all_formats_hold_the_same_numbers_to_the_bit(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_files, "_BLOCK", 64 * 64 * 4 * 2)  # two maps at a time
    given = {"weights": weights, "data": ("demo:5",), "stage": "layer3", "workers": 0}
    asked = EmbedOptions.checked(**given, patches=True, to=tmp_path / "a.npz")
    rows, _ = compute(asked, QUIET)
    expected = rows.embedding().features.numpy()
    assert expected.shape == (5, 8, 8, 64)
    for form in FORMS:
        write(rows, tmp_path / f"a{form}")
        content = read_back(tmp_path / f"a{form}")
        assert np.array_equal(content["features"].reshape(expected.shape), expected)
        if form in (".parquet", ".csv"):
            assert content["y"] == [y for _ in range(5) for y in range(8) for _ in range(8)]
            assert content["x"] == [x for _ in range(40) for x in range(8)]
            assert content["names"][::64] == rows.names
    pooled = EmbedOptions.checked(**given, to=tmp_path / "pooled.npz")
    average = compute(pooled, QUIET)[0].embedding().features.numpy()
    assert np.allclose(expected.mean(axis=(1, 2)), average, atol=1e-5)


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


@settings(deadline=None, max_examples=8)
@given(
    values=npst.arrays(np.float32, (3, 2), elements=st.floats(width=32, allow_infinity=False)),
    names=st.lists(TEXT, min_size=3, max_size=3),
)
def test_any_name_and_number_is_read_back(values: Any, names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder))
        spool.append(torch.from_numpy(values))
        rows = EmbeddingRows(spool, names, [0, -1, 0], ("a",), "pooled")
        for form in FORMS:
            path = Path(folder) / f"a{form}"
            write(rows, path)
            content = read_back(path)
            assert content["names"] == names
            assert content["class_names"] == ["a", "", "a"]
            assert content["labels"] == [0, -1, 0]
            assert np.array_equal(content["features"], values, equal_nan=True)


@pytest.mark.parametrize("form", FORMS)
def test_a_name_that_is_no_utf8_is_kept_or_refused(tmp_path: Path, form: str) -> None:
    spool = Spool(tmp_path)
    spool.append(torch.ones(1, 2))
    path = tmp_path / f"a{form}"
    for name in ("a\udcff.png", "\ud800"):  # of undecodable bytes, and never of a file
        rows = EmbeddingRows(spool, [name], [0], ("a",), "pooled")
        if form == ".parquet" or (form == ".csv" and name == "\ud800"):
            with pytest.raises(SslToolError, match="is not UTF-8; type --to with"):
                write(rows, path)
            assert path.exists() == (form == ".csv")
        else:
            write(rows, path)
            assert read_back(path)["names"] == [name]


@pytest.mark.parametrize("form", FORMS)
def test_an_interrupt_leaves_no_file(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    def stop(spool: Spool, size: int = 0) -> Any:
        yield np.zeros((4, 64), np.float32)
        raise KeyboardInterrupt

    monkeypatch.setattr(Spool, "blocks", stop)
    data = {"weights": weights, "data": ("demo:6",), "workers": 0}
    with pytest.raises(KeyboardInterrupt):
        embed(EmbedOptions.checked(**data, to=tmp_path / "to" / f"a{form}"), QUIET)
    assert list((tmp_path / "to").iterdir()) == []


def test_the_whole_image_is_another_one_than_its_square(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    image = np.zeros((32, 96, 3), np.uint8)
    image[:, :32] = 255  # outside of the center square
    Image.fromarray(image).save(tmp_path / "in" / "wide.png")
    Image.fromarray(image).resize((32, 32), Image.Resampling.BOX).save(tmp_path / "in" / "thin.png")
    given = {"weights": weights, "data": (str(tmp_path / "in"),), "to": tmp_path / "a.npz"}

    def vectors(framing: str) -> Any:
        asked = EmbedOptions.checked(**given, framing=framing, workers=0)
        return compute(asked, QUIET)[0].embedding().features.numpy()

    thin, wide = vectors("whole")
    assert np.abs(thin - wide).max() < 0.1 * np.abs(thin - vectors("square")[1]).max()


def test_other_files_and_stages_are_refused(weights: Path, tmp_path: Path) -> None:
    given = {"weights": weights, "data": ("demo:4",)}
    with pytest.raises(UsageError, match=r"\.safetensors, \.npz, \.parquet or \.csv"):
        embed(EmbedOptions.checked(**given, to=tmp_path / "a.txt"), QUIET)
    with pytest.raises(UsageError, match="pooled, stem, layer1"):
        embed(EmbedOptions.checked(**given, to=tmp_path / "a.npz", stage="layer9"), QUIET)


def painted(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (40 * number, 90, 200)).save(path)
    return root


def embedded(weights: Path, data: Path | str, to: Path, **options: Any) -> dict[str, Any]:
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


@pytest.mark.parametrize("form", ["manifest", "zip"])
def test_labels_of_other_splits_are_numbered_together(
    weights: Path, tmp_path: Path, form: str
) -> None:
    names = ["train/a/0.png", "train/b/0.png", "train/c/0.png", "test/a/0.png", "test/c/0.png"]
    painted(tmp_path, *names)
    rows = [f"{name},{name.split('/')[1]},{name.split('/')[0]}" for name in names]
    (tmp_path / "m.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for name in names:
            archive.write(tmp_path / name, name)
    spec = f"{tmp_path}/m.csv:test" if form == "manifest" else f"zip://test::{tmp_path}/p.zip"
    test = embedded(weights, spec, tmp_path / "test.npz")
    assert test["classes"] == ["a", "b", "c"]
    assert (test["labels"], test["class_names"]) == ([0, 2], ["a", "c"])


def test_no_file_that_is_read_is_replaced(weights: Path, tmp_path: Path) -> None:
    painted(tmp_path, "a/0.png")
    manifest = tmp_path / "m.csv"
    manifest.write_text("path,label,split\na/0.png,a,test\n")
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "encoder-best.safetensors").write_bytes(b"weights")
    for data, to in (
        (f"{manifest}:test", manifest),
        (str(manifest), manifest),
        (str(tmp_path / "a"), weights),
        (str(tmp_path / "a"), tmp_path / "encoder-best.safetensors"),
    ):
        before = to.read_bytes()
        with pytest.raises(UsageError, match="name another"):
            embedded(weights, data, to)
        assert to.read_bytes() == before


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

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from ssltool.data.sources.registry import open_source
from ssltool.encoders.transform import InputTransform
from ssltool.encoders.weights import load_encoder
from ssltool.errors import DataError, UsageError
from ssltool.methods.base import Predictions
from ssltool.methods.registry import find_method
from ssltool.runs.config import RunConfig
from ssltool.training.pretrain import pretrain
from ssltool.visualizing import neighbors
from ssltool.visualizing.attribution import draw_attribution, overlaid, responses
from ssltool.visualizing.curves import draw_curves
from ssltool.visualizing.features import draw_features, principal_plane
from ssltool.visualizing.filters import draw_filters
from ssltool.visualizing.neighbors import draw_neighbors
from ssltool.visualizing.permutations import compare_permutations, draw_permutations
from ssltool.visualizing.predictions import draw_predictions
from ssltool.visualizing.sampling import with_places
from ssltool.visualizing.task import draw_task

JIGSAW = find_method("jigsaw")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    given = {
        "data": ("demo:16",),
        "image_size": 32,
        "batch_size": 4,
        "steps": 4,
        "log_every": 1,
        "workers": 0,
        "out": out,
    }
    pretrain(
        RunConfig.merged("jigsaw", {**given, "precision": "fp32"}), console=Console(quiet=True)
    )
    return out


def drawn(path: Path) -> bytes:
    with Image.open(path) as image:
        assert min(image.size) > 100
        assert len(image.convert("L").getcolors() or [0] * 99) > 3
    return path.read_bytes()


def test_a_permutation_set(tmp_path: Path) -> None:
    facts = draw_permutations(tmp_path / "set.png", mode="code", count=72)
    assert (facts["K"], facts["min"]) == (72, 8)
    drawn(tmp_path / "set.png")


@pytest.mark.parametrize("name", ["task", "predictions", "filters", "curves"])
def test_the_same_command_draws_the_same_image(run: Path, tmp_path: Path, name: str) -> None:
    def draw(path: Path) -> None:
        if name == "task":
            draw_task(RunConfig.merged("jigsaw", {"data": ("demo:8",)}), path, count=3)
        elif name == "predictions":
            draw_predictions(run, path, count=3)
        elif name == "filters":
            draw_filters(run, path)
        else:
            draw_curves([run], path)

    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png")
    assert drawn(tmp_path / "a.png") == drawn(tmp_path / "b.png")


def test_answers_are_scored_on_the_images_given(run: Path, tmp_path: Path) -> None:
    result = draw_predictions(run, tmp_path / "a.png", name="jigsaw", data=("demo-test:40",))
    assert result["images"] == 40
    assert 0 <= result["accuracy"] <= 1
    assert result["chance"]["accuracy"] == pytest.approx(1 / 24)
    same = draw_predictions(run / "encoder.safetensors", tmp_path / "b.png", data=("demo-test:40",))
    assert same["accuracy"] == result["accuracy"]
    with pytest.raises(UsageError, match="a run of jigsaw, not of cpc"):
        draw_predictions(run, tmp_path / "a.png", name="cpc")


@pytest.mark.parametrize("kind", ["pca", "tsne"])
def test_a_map_of_features(run: Path, tmp_path: Path, kind: str) -> None:
    result = draw_features(run, tmp_path / "a.png", data=("demo-test:40",), kind=kind, count=30)
    assert (result["images"], result["classes"]) == (30, 10)
    assert ("variance" in result) == (kind == "pca")
    draw_features(
        run / "encoder.safetensors", tmp_path / "b.png", data=("demo-test:40",), kind=kind, count=30
    )
    assert drawn(tmp_path / "a.png") == drawn(tmp_path / "b.png")
    assert draw_features(run, tmp_path / "c.png")["images"] == 16  # the run's own


def test_a_map_without_its_package_names_the_extra(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(UsageError, match=r"ssltool\[maps\]"):
        draw_features(run, tmp_path / "a.png", kind="tsne")
    with pytest.raises(UsageError, match="4 images or more"):
        draw_features(run, tmp_path / "a.png", data=("demo:3",))


def test_the_principal_plane_is_that_of_the_largest_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    plane = torch.randn(50, 2, generator=generator, dtype=torch.float64) * torch.tensor([3.0, 1.0])
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64)).Q[:2]
    points, share = principal_plane(plane @ turn + 7)
    assert share == pytest.approx(1)
    assert torch.allclose(torch.cdist(points, points), torch.cdist(plane, plane), atol=1e-5)
    assert points[:, 0].var() > points[:, 1].var()


def test_answers_that_point_to_images_of_the_run_show_them(tmp_path: Path) -> None:
    out = tmp_path / "run"
    given = {
        "data": ("demo:16",),
        "image_size": 32,
        "batch_size": 4,
        "steps": 2,
        "workers": 0,
        "out": out,
    }
    pretrain(
        RunConfig.merged("npid", {**given, "precision": "fp32"}),
        console=Console(quiet=True),
    )
    result = draw_predictions(out, tmp_path / "a.png", count=3)
    assert result["accuracy"] >= 0
    assert [Path(path).name for path in result["charts"]] == ["a-similarities.png"]
    drawn(tmp_path / "a.png")
    with pytest.raises(UsageError, match="which of its 16 training images"):
        draw_predictions(out, tmp_path / "b.png", data=("demo-test:40",))


def test_places_become_columns_and_the_unreadable_is_gray(tmp_path: Path) -> None:
    for name, shade in (("a.png", 10), ("b.png", 20)):
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(tmp_path / name)
    (tmp_path / "c.png").write_text("no image")
    source = open_source((str(tmp_path),))
    asked = torch.tensor([1, 2, 0])
    predictions = with_places(
        Predictions({"image": torch.zeros(3, 3, 8, 8)}, ["", "", ""], {"nearest": asked}), source, 8
    )
    assert list(predictions.images) == ["image", "nearest"]
    assert [int(image[0, 0, 0]) for image in predictions.images["nearest"]] == [20, 128, 10]


@pytest.mark.parametrize("patch", [None, 12])
def test_neighbors_stand_beside_those_of_random_weights(
    run: Path, tmp_path: Path, patch: int | None
) -> None:
    first = draw_neighbors(run, tmp_path / "a.png", patch=patch, count=2, nearest=3)
    assert set(first["same_class"]) == {"jigsaw", "random init"}
    assert first["searched"] == (64 if patch else 16)
    draw_neighbors(run, tmp_path / "b.png", patch=patch, count=2, nearest=3)
    assert drawn(tmp_path / "a.png") == drawn(tmp_path / "b.png")


def test_a_neighbor_is_never_of_the_querys_own_image() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, owner = torch.randn(40, 8, generator=generator), torch.arange(10).repeat_interleave(4)
    queries = torch.tensor([0, 17, 39])
    found = neighbors._nearest(vectors, queries, owner, 5)
    centered = vectors - vectors.mean(dim=0)
    for query, row in zip(queries.tolist(), found, strict=True):
        similarity = torch.cosine_similarity(centered[query], centered, dim=1)
        similarity[owner == owner[query]] = -2
        assert row.tolist() == similarity.argsort(descending=True)[:5].tolist()


def test_patches_larger_than_the_images_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--patch 16"):
        draw_neighbors(run, tmp_path / "a.png", patch=40)


@pytest.mark.parametrize("name", ["context-prediction", "context-encoder"])
def test_charts_stand_beside_the_answers(name: str, tmp_path: Path) -> None:
    given = {
        "data": ("demo:16",),
        "image_size": 32,
        "batch_size": 4,
        "steps": 2,
        "workers": 0,
        "precision": "fp32",
    }
    choice = RunConfig.merged(name, {**given, "out": tmp_path / "run"})
    pretrain(choice, console=Console(quiet=True))
    result = draw_predictions(tmp_path / "run", tmp_path / "predictions.png", count=2)
    assert len(result["charts"]) == 1
    drawn(tmp_path / "predictions.png")
    drawn(Path(result["charts"][0]))


def test_modes_of_permutation_sets_are_compared(tmp_path: Path) -> None:
    found = compare_permutations(tmp_path / "modes.png", count=24, grid=2)
    assert "code" in found["refused"]  # it has at most 12
    assert {facts["min"] for facts in found["modes"].values()} == {2}  # all 24 there are
    assert len(found["modes"]) == 5
    drawn(tmp_path / "modes.png")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    side = torch.arange(60, dtype=torch.uint8)
    image = torch.stack(
        [side[:, None].expand(60, 80), (2 * side)[:, None].expand(60, 80), torch.full((60, 80), 9)]
    )
    Image.fromarray(image.to(torch.uint8).permute(1, 2, 0).numpy()).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_image_of_ones_own_is_drawn(run: Path, photo: Path, tmp_path: Path) -> None:
    choice = RunConfig.merged("jigsaw", {"image_size": 32})
    assert draw_task(choice, tmp_path / "task.png", image=[photo])["images"] == 1
    assert draw_predictions(run, tmp_path / "predictions.png", image=[photo, photo])["images"] == 2
    found = draw_neighbors(run, tmp_path / "near.png", image=[photo, photo], nearest=3)
    assert (found["searched"], found["same_class"]) == (16, {})
    assert draw_attribution(run, tmp_path / "where.png", image=[photo])["images"] == 1
    weights = tmp_path / "alone" / "encoder.safetensors"
    weights.parent.mkdir()
    weights.write_bytes((run / "encoder.safetensors").read_bytes())
    assert draw_attribution(weights, tmp_path / "alone.png", image=[photo])["images"] == 1
    for name in ("task", "predictions", "near", "where", "alone"):
        drawn(tmp_path / f"{name}.png")


def test_weights_without_a_run_ask_for_images(run: Path, photo: Path, tmp_path: Path) -> None:
    weights = tmp_path / "encoder.safetensors"
    weights.write_bytes((run / "encoder.safetensors").read_bytes())
    with pytest.raises(UsageError, match="name images with --data"):
        draw_attribution(weights, tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"missing\.png is no file"):
        draw_attribution(run, tmp_path / "a.png", image=[tmp_path / "missing.png"])
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match="cannot be read as an image"):
        draw_attribution(run, tmp_path / "a.png", image=[tmp_path / "text.png"])
    with pytest.raises(UsageError, match="has the stages stem, layer1"):
        draw_attribution(run, tmp_path / "a.png", stages=["layer9"])
    with pytest.raises(UsageError, match=r"images are written as \.png"):
        draw_attribution(run, tmp_path / "a.jpg", image=[photo])


def test_stages_respond_where_a_image_is_unlike_the_others(run: Path) -> None:
    encoder = load_encoder(run / "encoder.safetensors").eval()
    metadata = encoder.metadata
    assert metadata is not None
    plain = torch.full((4, 3, 32, 32), 100, dtype=torch.uint8)
    spot = plain[:1].clone()
    spot[..., 20:24, 4:8] = 255
    found = responses(encoder, InputTransform.of(metadata, 32), plain, spot, ["stem", "layer2"])
    assert set(found) == {"stem", "layer2"}
    inner = found["stem"][0, 2:-2, 2:-2]  # padding makes the border unlike, too
    y, x = divmod(int(inner.argmax()), inner.shape[1])
    assert 18 <= y + 2 <= 25
    assert 2 <= x + 2 <= 9
    assert (float(found["stem"].min()), float(found["stem"].max())) == (0, 1)
    mixed = overlaid(spot, found["stem"])
    assert mixed.shape == (1, 3, 32, 32)
    assert int(mixed[0, :, 20:24, 4:8].sum(dim=0).max()) > int(
        mixed[0, :, 8:12, 20:24].sum(dim=0).max()
    )


def test_charts_may_be_svg_while_sheets_stay_png(tmp_path: Path) -> None:
    given = {
        "data": ("demo:16",),
        "image_size": 32,
        "batch_size": 4,
        "steps": 1,
        "workers": 0,
        "precision": "fp32",
    }
    name = "context-prediction"
    pretrain(
        RunConfig.merged(name, {**given, "out": tmp_path / "run"}),
        console=Console(quiet=True),
    )
    for stem in ("a", "b"):
        result = draw_predictions(tmp_path / "run", tmp_path / f"{stem}.svg", count=2)
        assert result["path"] == str(tmp_path / f"{stem}.png")
        assert result["charts"] == [str(tmp_path / f"{stem}-confusion.svg")]
    assert (tmp_path / "a-confusion.svg").read_bytes() == (
        tmp_path / "b-confusion.svg"
    ).read_bytes()
    drawn(tmp_path / "a.png")

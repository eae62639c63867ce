"""The same images give the same weights wherever they are, also after a kill; all can be probed."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_kills import KILL_AFTER
from made_server import serving
from made_shards import tar
from PIL import Image
from rich.console import Console

import ssltool
from ssltool.data.check import check

pytestmark = pytest.mark.slow
datasets = pytest.importorskip("datasets")
pytest.importorskip("aiohttp")

OPTIONS = {
    "image_size": 32,
    "batch_size": 8,
    "steps": 20,
    "checkpoint_every": 8,
    "precision": "fp32",
    "permutations": 8,
}
KINDS = [
    "zip", "csv", "jsonl", "paths.parquet", "images.parquet", "hf", "hf folder", "shards by URL",
    "zip by URL", "manifest by URL", "parquet by URL", "shard in a zip", "dataset",
]  # fmt: skip
# Each run ends itself with SIGKILL when it is about to save its second checkpoint.
KILLED = f"""
{KILL_AFTER}
from ssltool.training.pretrain import pretrain  # before the processes are divided

kill_after(8)
for kind, (spec, out, options) in json.load(sys.stdin).items():
    child = os.fork()
    if child == 0:
        if kind == "dataset":
            from torchvision.datasets import ImageFolder
            spec = ImageFolder(spec)
        ssltool.pretrain("jigsaw", spec, out=out, workers=1, **options)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, kind
"""


def noise(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((40, 36), Image.Resampling.BILINEAR).save(file, "PNG")
    return file.getvalue()


FILES = {f"{'ab'[i // 12]}/{i:02d}.png": noise(i) for i in range(24)}


def written(root: Path, url: str) -> dict[str, str]:
    """The same images in every form -> their spec."""
    from pyarrow import Table, parquet

    for name, data in FILES.items():
        for base in (root / "x", root / "site"):
            (base / name).parent.mkdir(parents=True, exist_ok=True)
            (base / name).write_bytes(data)
    site = root / "site"
    with zipfile.ZipFile(site / "x.zip", "w") as file:
        for name, data in FILES.items():
            file.writestr(name, data)
    with (site / "m.csv").open("w", newline="") as text:
        csv.writer(text).writerows([("path", "label"), *((n, n[0]) for n in FILES)])
    lines = (json.dumps({"path": f"x/{name}", "label": name[0]}) + "\n" for name in FILES)
    (root / "m.jsonl").write_text("".join(lines))
    (root / "m.csv").write_text((site / "m.csv").read_text())
    (root / "m.csv").write_text(
        "path,label\n" + "".join(f"{root / 'x' / n},{n[0]}\n" for n in FILES)
    )
    table = Table.from_pylist([{"path": f"x/{n}", "label": n[0]} for n in FILES])
    parquet.write_table(table, root / "paths.parquet")
    rows = [{"image": {"bytes": d, "path": n}, "label": n[0]} for n, d in FILES.items()]
    parquet.write_table(Table.from_pylist(rows), site / "images.parquet", row_group_size=5)
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"])
    )
    columns = {
        "image": [{"bytes": d, "path": None} for d in FILES.values()],
        "label": [int(n[0] == "b") for n in FILES],
    }
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(root / "hf")
    for number in range(2):
        part = dict(list(FILES.items())[12 * number : 12 * number + 12])
        labels = {n.replace(".png", ".cls"): n[:1].encode() for n in part}
        tar(site / f"{number}.tar", part | labels)
    tar(root / "all.tar", FILES | {n.replace(".png", ".cls"): n[:1].encode() for n in FILES})
    with zipfile.ZipFile(root / "tars.zip", "w") as file:
        file.write(root / "all.tar", "in/all.tar")
    return {
        "zip": f"{site}/x.zip",
        "csv": f"{root}/m.csv",
        "jsonl": f"{root}/m.jsonl",
        "paths.parquet": f"{root}/paths.parquet",
        "images.parquet": f"{site}/images.parquet",
        "hf": f"hf:{root}/hf",
        "hf folder": f"hf:{root}/x",
        "shards by URL": f"{url}/{{0..1}}.tar",
        "zip by URL": f"{url}/x.zip",
        "manifest by URL": f"{url}/m.csv",
        "parquet by URL": f"{url}/images.parquet",
        "shard in a zip": f"zip://in/all.tar::{root}/tars.zip",
        "dataset": f"{root}/x",
    }


class Made:
    """Runs that were killed, the specs of their images, and the weights of the folder's run."""

    def __init__(self, root: Path, specs: dict[str, str]) -> None:
        self.root, self.specs = root, specs
        ssltool.pretrain("jigsaw", str(root / "x"), out=root / "whole", workers=0, **OPTIONS)
        self.weights = weights(root / "whole")

    def data(self, kind: str) -> Any:
        if kind == "dataset":
            from torchvision.datasets import ImageFolder

            return ImageFolder(self.specs[kind])
        return self.specs[kind]


def weights(out: Path) -> bytes:
    return (out / "encoder.safetensors").read_bytes()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    root = tmp_path_factory.mktemp("sources")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        patch.setenv("HF_DATASETS_CACHE", str(root / "hf cache"))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "hf cache")
        (root / "site").mkdir()
        with serving(root / "site") as (url, _):
            specs = written(root, url)
            runs = {
                kind: (spec, str(root / f"run {kind}"), OPTIONS) for kind, spec in specs.items()
            }
            subprocess.run(
                [sys.executable, "-c", KILLED], input=json.dumps(runs), text=True, check=True
            )
            yield Made(root, specs)


def test_every_kind_is_tried(made: Made) -> None:
    assert sorted(KINDS) == sorted(made.specs)


@pytest.mark.parametrize("kind", ["zip", "hf"])  # of the others the parts before and after a kill
def test_the_same_images_give_the_same_bytes(made: Made, kind: str) -> None:
    out = made.root / f"again {kind}"
    ssltool.pretrain("jigsaw", made.data(kind), out=out, workers=0, **OPTIONS)
    assert weights(out) == made.weights


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_resumes_to_the_same_bytes(made: Made, kind: str) -> None:
    out = made.root / f"run {kind}"
    steps = sorted(path.name for path in (out / "checkpoints").iterdir() if path.name[0] != ".")
    assert steps == ["step-0000008"]
    data = made.data(kind) if kind == "dataset" else None
    ssltool.pretrain("jigsaw", data, out=out, resume=True)
    assert weights(out) == made.weights


@pytest.mark.parametrize("kind", KINDS)
def test_check_and_probe_find_the_labels(made: Made, kind: str) -> None:
    result = check(made.data(kind), Console(quiet=True))
    assert (result.images, result.readable) == (24, 24)
    assert result.classes == {"a": 12, "b": 12}
    record = ssltool.probe(
        made.root / "whole", made.data(kind), kind=("knn",), baselines=False, workers=0
    )
    assert record.classes == ("a", "b")
    assert record.train_images + record.test_images == 24


def test_a_run_resumes_without_its_server(made: Made, tmp_path: Path) -> None:
    with serving(made.root / "site") as (url, _):
        data = f"{url}/{{0..1}}.tar"
        run = ssltool.pretrain("jigsaw", data, out=tmp_path / "run", **{**OPTIONS, "steps": 8})
    ssltool.pretrain("jigsaw", out=run.folder, resume=True, steps=20)
    assert os.path.exists(run.weights)


def test_ranks_read_every_image_of_an_epoch_once(made: Made) -> None:
    """Of every source the ranks' parts of an epoch are disjoint and complete."""
    from ssltool.data.loader import TrainBatches
    from ssltool.data.sources.registry import open_source

    for kind in KINDS:
        source = open_source(made.data(kind))
        seen = []
        for rank in range(3):
            with TrainBatches(
                source, size=32, batch_size=4, seed=1, workers=0, rank=rank, world=3
            ) as batches:
                stream = batches.from_step(0)
                seen += [i for _ in range(2) for i in next(stream).indices.tolist()]
        assert sorted(seen) == list(range(24)), kind

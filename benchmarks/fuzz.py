"""Damage images and documents at random and count what our readers say of them.

    python benchmarks/fuzz.py [--images 10000] [--documents 1000] [--seed 0] [--only KIND] [--to D]

``--images`` is the number of damaged images of all formats together, ``--documents`` that of each
document of ours: run folders, checkpoints, weights, shards and their index, and what users write.
Originals are made by a short run. A damaged file should be read or refused with one of our errors
in one line; a traceback, more memory or time than allowed, or the end of the process is a fault. It
is printed with its number and kept in ``--to``; the same seed and number make the same file again.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
import os
import random
import resource
import signal
import sys
import tarfile
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from damage import (
    damage_bytes,
    damage_json,
    damage_line,
    damage_npy,
    damage_safetensors,
    damage_tar,
)
from PIL import Image
from rich.console import Console

import ssltool
from ssltool.data.decode import read_square
from ssltool.data.opening import dimensions
from ssltool.data.sources.shard_index import write_index
from ssltool.data.sources.shards import ShardSource
from ssltool.encoders.weights import load_encoder
from ssltool.errors import SslToolError, UnreadableImage
from ssltool.methods.context_encoder.masks import read_shapes
from ssltool.methods.jigsaw import permutations
from ssltool.probing.embedding_files import read_classes
from ssltool.probing.label_file import LabelFile
from ssltool.probing.store import FeatureStore
from ssltool.runs import checkpoint, metrics
from ssltool.runs.config import RunConfig
from ssltool.runs.folder import Run, build_method
from ssltool.runs.probe_record import ProbeRecord
from ssltool.runs.task_files import find_task
from ssltool.runs.task_model import load_task, save_task
from ssltool.training.optim import build_optimizer

SECONDS = 20.0
MEMORY = 2 * 2**30  # bytes beyond what the process has


class Target(NamedTuple):
    """A kind of file, and how it is read.

    Attributes:
        name: Of the kind.
        place: Where a damaged file is written to.
        originals: Contents to damage.
        read: Reads the file at ``place``; what it raises is judged.
        rewrite: Damages the structure of a content; None for bytes alone.
    """

    name: str
    place: Path
    originals: list[bytes]
    read: Callable[[], object]
    rewrite: Callable[[bytes, random.Random], bytes] | None = None


class TimeIsOver(BaseException):
    """Reading has taken longer than `SECONDS`."""


def damaged(target: Target, rng: random.Random) -> bytes:
    content = rng.choice(target.originals)
    if target.rewrite is not None and rng.random() < 0.7:
        for _ in range(rng.choice([1, 1, 2])):
            content = target.rewrite(content, rng)
        return content if rng.random() < 0.9 else damage_bytes(content, target.originals, rng)
    return damage_bytes(content, target.originals, rng)


def images(folder: Path) -> Iterator[Target]:
    """Small images of every format that is accepted."""
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(40), np.arange(48)) * 2
    pixels = (smooth[..., None] + rng.integers(0, 40, (40, 48, 4))).astype(np.uint8)
    wide = Image.fromarray((pixels[..., 0].astype(np.uint16)) * 257)
    ways: dict[str, list[tuple[str, dict[str, Any]]]] = {
        "JPEG": [("RGB", {}), ("L", {}), ("CMYK", {}), ("RGB", {"progressive": True})],
        "PNG": [("RGB", {}), ("L", {}), ("P", {}), ("RGBA", {}), ("1", {}), ("I;16", {})],
        "WEBP": [("RGB", {}), ("RGBA", {}), ("RGB", {"lossless": True})],
        "GIF": [("P", {}), ("L", {})],
        "BMP": [("RGB", {}), ("L", {}), ("P", {})],
        "TIFF": [("RGB", {}), ("RGB", {"compression": "tiff_lzw"}), ("I;16", {}), ("RGBA", {}),
                 ("L", {"compression": "tiff_adobe_deflate"}), ("1", {"compression": "group4"}),
                 ("RGB", {"compression": "jpeg"}), ("F", {})],
        "PPM": [("RGB", {}), ("L", {}), ("1", {})],
        "JPEG2000": [("RGB", {}), ("L", {})],
        "AVIF": [("RGB", {}), ("RGBA", {})],
        "ICO": [("RGBA", {}), ("RGBA", {"bitmap_format": "bmp"})],
        "TGA": [("RGB", {}), ("RGB", {"compression": "tga_rle"}), ("P", {})],
        "MPO": [("RGB", {"save_all": True, "append_images": [Image.new("RGB", (48, 40))]})],
    }  # fmt: skip
    Image.init()
    for name, modes in ways.items():
        if name not in Image.SAVE:
            continue
        originals = []
        for mode, options in modes:
            image = wide if mode == "I;16" else Image.fromarray(pixels).convert(mode)
            file = io.BytesIO()
            image.save(file, name, **options)
            originals.append(file.getvalue())
        place = folder / f"image.{name.lower()}"

        def read(place: Path = place) -> None:
            read_square(place, 24)
            dimensions(place)

        yield Target(name, place, originals, read)


def run_documents(folder: Path) -> Iterator[Target]:
    """What a run, a probe and an embedding leave, of a run of three steps."""
    out = folder / "run"
    run = ssltool.pretrain(
        "jigsaw", "demo:40", out=out, steps=3, batch_size=8, image_size=32, log_every=1,
        workers=0, device="cpu", backbone="resnet10_w32",
    )  # fmt: skip
    ssltool.probe(run, "demo:40", kind="knn", device="cpu", workers=0)
    for end in ("safetensors", "npz"):
        ssltool.embed(run, "demo:10", to=folder / f"embedding.{end}", device="cpu", workers=0)
    place = checkpoint.newest(out)
    assert place is not None
    method = build_method(Run.open(out).config)
    optimizer = build_optimizer(
        method, "adamw", lr=0.1, weight_decay=0.0, momentum=0.9, lr_scales=method.lr_scales
    )

    def encode() -> None:
        encoder = load_encoder(out)
        with torch.no_grad():
            encoder(encoder.transform(torch.zeros(1, 3, 40, 40, dtype=torch.uint8)))

    def resume() -> None:
        checkpoint.load(place, method, optimizer, {"scaler": {}})

    def report() -> None:
        record = ProbeRecord.read(out / "probe.json")
        record._repr_html_()
        record.warnings()

    def repeat() -> None:
        RunConfig.merged("jigsaw", {}, config=out / "run.json")
        Run.open(out)

    def target(path: Path, read: Callable[[], object], rewrite: Any) -> Target:
        return Target(path.name, path, [path.read_bytes()], read, rewrite)

    yield target(out / "encoder.safetensors", encode, damage_safetensors)
    yield target(out / "run.json", repeat, damage_json)
    yield target(out / "probe.json", report, damage_json)
    yield target(out / "metrics.jsonl", lambda: metrics.read(out), damage_line)
    yield target(place / "state.json", resume, damage_json)
    yield target(place / "optimizer.safetensors", resume, damage_safetensors)
    yield target(place / "model.safetensors", resume, damage_safetensors)
    for end, rewrite in (("safetensors", damage_safetensors), ("npz", None)):
        path = folder / f"embedding.{end}"
        yield target(path, partial(read_classes, path), rewrite)


def task_documents(folder: Path) -> Iterator[Target]:
    """The whole network of a task, of a run of two steps."""
    out, file = folder / "colorization", folder / "encoder.task.safetensors"
    run = ssltool.pretrain(
        "colorization", "demo:8", out=out, steps=2, batch_size=4, image_size=32, workers=0,
        device="cpu", backbone="resnet10_w32",
    )  # fmt: skip
    save_task(run, file)

    def color() -> None:
        method: Any = load_task(find_task(file, "colorize"))
        method.colorize(torch.zeros(1, 3, method.side, method.side, dtype=torch.uint8))

    yield Target(file.name, file, [file.read_bytes()], color, damage_safetensors)


def data_documents(folder: Path) -> Iterator[Target]:
    """Shards, their index, and stored features."""
    shards = folder / "shards"
    shards.mkdir()
    path = shards / "a.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(4):
            file = io.BytesIO()
            Image.new("RGB", (12, 12), (number, 0, 0)).save(file, "PNG")
            members = {"png": file.getvalue(), "cls": b"c%d" % (number % 2)}
            for ending, data in {**members, "json": b'{"class": "c1"}'}.items():
                header = tarfile.TarInfo(f"s/{number:03d}.{ending}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
    write_index(str(shards), [str(path)])

    def read() -> None:
        source = ShardSource([str(path)], "shards")
        for index in range(min(len(source), 100)):
            with suppress(UnreadableImage):
                source.name(index), source.label(index), source.read(index, 12)

    files = {"a.tar": damage_tar, "index.json": damage_json}
    for name, rewrite in {**files, "a.index.safetensors": damage_safetensors}.items():
        original = (shards / name).read_bytes()
        yield Target(name, shards / name, [original], read, rewrite)
    store = FeatureStore(folder / "features")
    store.put("key", [({"pooled": torch.rand(5, 3)}, torch.arange(5))])
    entry = folder / "features" / "key" / "index.json"
    yield Target("features", entry, [entry.read_bytes()], lambda: store.get("key"), damage_json)


def typed_documents(folder: Path) -> Iterator[Target]:
    """What users write: permutations, labels, configurations, masks."""
    table = permutations.build("max_min", 10).permutations
    file = io.BytesIO()
    np.save(file, table)
    words = np.array([10, 9, *(table.ravel().astype("<i4") + 1)], "<i4").tobytes()
    for end, original in (("npy", file.getvalue()), ("bin", words)):
        path = folder / f"set.{end}"
        rewrite = damage_npy if end == "npy" else None
        yield Target(path.name, path, [original], partial(permutations.load, path), rewrite)
    labels = folder / "labels.csv"
    text = 'file,label\na/1.jpg,"dog;cat"\na/2.jpg,?dog\n\u00e9.png,x\\;y\n'.encode()
    yield Target("labels.csv", labels, [text], lambda: LabelFile(labels))
    options = {"steps": 100, "lr": 0.1, "data": ["a", "b"], "permutations": 50, "grid": 3}
    toml = "\n".join(f"{name} = {json.dumps(value)}" for name, value in options.items()).encode()
    plain = json.dumps(options).encode()
    for end, original, rewrite in (("toml", toml, None), ("json", plain, damage_json)):
        path = folder / f"config.{end}"
        yield Target(
            path.name,
            path,
            [original],
            partial(RunConfig.merged, "jigsaw", {}, config=path),
            rewrite,
        )
    masks = folder / "masks"
    masks.mkdir()
    mask = io.BytesIO()
    Image.new("L", (20, 20), 255).save(mask, "PNG")
    yield Target("mask.png", masks / "m.png", [mask.getvalue()], lambda: read_shapes(masks, 16))


@contextmanager
def limits() -> Iterator[None]:
    """End the block after `SECONDS`, and refuse memory beyond `MEMORY`."""

    def stop(*_: object) -> None:
        raise TimeIsOver

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    faulthandler.dump_traceback_later(3 * SECONDS, exit=True)  # where no signal is handled
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def outcome(target: Target) -> tuple[str, str]:
    """What came of reading a damaged file: a word, and the traceback of a fault."""
    try:
        with limits():
            target.read()
    except SslToolError as error:
        if _of_memory(error):
            return "memory", traceback.format_exc()
        return ("refused", "") if "\n" not in str(error) else ("lines", traceback.format_exc())
    except TimeIsOver:
        return "time", traceback.format_exc()
    except BaseException as error:
        return "memory" if _of_memory(error) else "traceback", traceback.format_exc()
    return "read", ""


def _of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError) or "alloc" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def fuzz(target: Target, count: int, seed: int, kept: Path) -> Counter[str]:
    """Read so many damaged files in processes of their own; each that ends is a fault."""
    target.place.write_bytes(target.originals[0])
    target.read()  # before it is damaged
    counts: Counter[str] = Counter()
    number = 0
    while number < count:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _work(target, range(number, count), seed, kept, writing)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as lines:
            for line in lines:
                counts[line.strip()] += 1
                number += 1
        os.waitpid(child, 0)
        if number < count:  # it has ended before its time
            counts["end of the process"] += 1
            print(f"{target.name} {number}: end of the process, seed {seed}", flush=True)
            _keep(target, number, seed, kept, "")
            number += 1
    target.place.write_bytes(target.originals[0])
    return counts


def _work(target: Target, numbers: range, seed: int, kept: Path, writing: int) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff prints what it thinks of a file
    for number in numbers:
        target.place.write_bytes(damaged(target, random.Random(f"{seed} {target.name} {number}")))
        word, text = outcome(target)
        if word not in ("read", "refused"):
            last = text.strip().splitlines()[-1][:150]
            print(f"{target.name} {number}: {word}, seed {seed}: {last}", flush=True)
            _keep(target, number, seed, kept, text)
        os.write(writing, f"{word}\n".encode())


def _keep(target: Target, number: int, seed: int, kept: Path, text: str) -> None:
    kept.mkdir(parents=True, exist_ok=True)
    content = damaged(target, random.Random(f"{seed} {target.name} {number}"))
    (kept / f"{number}-{target.place.name}").write_bytes(content)
    (kept / f"{number}-{target.place.name}.txt").write_text(text, errors="replace")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of the names of the kinds to damage")
    parser.add_argument("--to", type=Path, default=Path("fuzz-faults"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # before forking
    total: Counter[str] = Counter()
    console = Console(file=sys.stdout, soft_wrap=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        formats = list(images(folder))
        kinds = [(target, -(-arguments.images // len(formats))) for target in formats]
        for make in (typed_documents, data_documents, run_documents, task_documents):
            kinds += [(target, arguments.documents) for target in make(folder)]
        for target, count in kinds:
            if arguments.only in target.name:
                counts = fuzz(target, count, arguments.seed, arguments.to)
                total += counts
                told = ", ".join(f"{word} {n:,}" for word, n in sorted(counts.items()))
                console.print(f"{target.name}: {told}", highlight=False)
    print(f"all: {json.dumps(total)}")
    sys.exit(any(word not in ("read", "refused") for word in total))


if __name__ == "__main__":
    main()

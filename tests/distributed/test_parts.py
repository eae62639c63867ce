"""Work divided among processes: the results are, byte for byte, those of one process."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from torch import distributed, multiprocessing

import ssltool
from ssltool.data.check import check
from ssltool.data.options import PackOptions
from ssltool.data.pack import pack
from ssltool.data.sources.shard_index import INDEX
from ssltool.data.sources.shards import UNFINISHED
from ssltool.distributed.collectives import is_main, rank
from ssltool.distributed.parts import divided_work, gathered, own_part, send_to_main
from ssltool.distributed.process_group import process_group
from ssltool.encoders.registry import build_encoder
from ssltool.encoders.weights import describe, save_encoder
from ssltool.errors import DataError, SslToolError, UsageError
from ssltool.probing import embed as embedding
from ssltool.probing import extraction
from ssltool.probing.compare import compare
from ssltool.probing.options import CompareOptions, EmbedOptions, Kind, ProbeOptions
from ssltool.probing.probe import probe
from ssltool.runs.probe_record import BANK

QUIET = Console(quiet=True)
BLOCK = 8  # images that the network is applied to at a time


@given(st.integers(0, 200), st.integers(1, 30), st.integers(1, 9))
def test_parts_are_whole_blocks_in_order(count: int, block: int, world: int) -> None:
    parts = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("WORLD_SIZE", str(world))
        for number in range(world):
            patched.setenv("RANK", str(number))
            parts.append(own_part(count, block))
    assert [i for part in parts for i in part] == list(range(count))
    assert all(part.start % block == 0 or part.start == count for part in parts)
    blocks = [-(-len(part) // block) for part in parts]
    assert max(blocks) - min(blocks) <= 1


def test_one_process_sends_nothing() -> None:
    assert gathered([1]) == [[1]]
    send_to_main([torch.ones(2)], lambda _: pytest.fail("there is nobody to send"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, and 43 images of three classes, of which some are broken and some are equal."""
    folder = tmp_path_factory.mktemp("parts")
    generator = np.random.default_rng(0)
    for number in range(43):
        path = folder / "images" / "abc"[number * 3 // 43] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (24, 30 + number % 5, 3)
        pixels = np.zeros(size, np.uint8) if number % 20 == 3 else generator.integers(0, 256, size)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        if number in (5, 30, 31):
            path.write_bytes(b"\x89PNG nothing")
    torch.manual_seed(0)
    statistics = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    metadata = describe(
        build_encoder("resnet20"), method="x", color_space="rgb", image_size=32, **statistics
    )
    save_encoder(build_encoder("resnet20"), metadata, folder / "encoder.safetensors")
    return folder


def embed_options(folder: Path, to: Path, **more: Any) -> EmbedOptions:
    return EmbedOptions(
        data=(str(folder / "images"),),
        weights=folder / "encoder.safetensors",
        to=to,
        workers=0,
        batch_size=5,
        **more,
    )


def small_blocks() -> None:
    embedding.compute_batch = extraction.compute_batch = lambda *_: BLOCK  # type: ignore[attr-defined]
    extraction._PIXEL_BATCH = 2 * BLOCK


def results(folder: Path, to: Path) -> dict[str, str]:
    """SHA-256 of everything that the commands write and print; of what `probe` and `compare`
    return alone but in the first process.
    """
    small_blocks()
    images, told = str(folder / "images"), list[Any]()
    for name, more in (("a.safetensors", {}), ("b.csv", {"patches": True})):
        told.append(embedding.embed(embed_options(folder, to / name, **more), QUIET))
    checked = check(images, QUIET)
    packed = pack(PackOptions(data=(images,), to=to / "shards", per_shard=6, workers=1), QUIET)
    weights, data = folder / "encoder.safetensors", (images,)
    kept: dict[str, Any] = {"cache": to / "features", "workers": 0, "batch_size": 5}
    kinds: tuple[Kind, ...] = ("linear", "knn")
    record = probe(
        ProbeOptions(data=data, weights=weights, to=to / "probe", kind=kinds, **kept), QUIET
    )
    compared = compare(
        CompareOptions(data=data, runs=(weights,), csv=to / "c.csv", kind=kinds, **kept), QUIET
    )
    text = (record.model_dump_json() + compared.model_dump_json()).replace(str(to), "")
    digests = {"record": hashlib.sha256(text.encode()).hexdigest()}
    if not is_main():
        assert [*told, checked, packed] == [None] * 4
        return digests
    assert len(record.skipped) == 3
    told += [checked, packed]
    (to / "told").write_text(
        re.sub(r'"seconds":[^,}]*', "", "".join(each.model_dump_json() for each in told))
    )
    for path in sorted(to.rglob("*")):
        if path.is_file():
            data = path.read_bytes().replace(str(to).encode(), b"")
            if path.name == INDEX:
                data = re.sub(rb'"mtime_ns": \d+', b"", data)
            digests[str(path.relative_to(to))] = hashlib.sha256(data).hexdigest()
    return digests


def nothing_readable(folder: Path, to: Path) -> dict[str, str]:
    """The first process has no readable image, the others have all; then none has any."""
    small_blocks()
    found = {}
    options = embed_options(folder, to / "x.npz").model_copy(
        update={"data": (str(folder / "half"),)}
    )
    result = embedding.embed(options, QUIET)
    if result is not None:
        found["images"] = str(result.images)
    with divided_work(QUIET):
        rows, _ = embedding.compute(options, QUIET)
        found["own"] = str([Path(name).name for name in rows.names])
        assert len(rows.embedding().features) == len(rows.names)
    return found if is_main() else {"own": found["own"]}


def different_images(folder: Path, to: Path) -> dict[str, str]:
    """Hosts with other files are named."""
    try:
        check(str(folder / ("images" if is_main() else "half")), QUIET)
    except DataError as error:
        return {"error": str(error)}
    except SslToolError as error:
        return {"lost": str(error)}
    return {}


def joined_by_others(folder: Path, to: Path) -> dict[str, str]:
    """A process group that is there is used, and stays."""
    port = int(os.environ["MASTER_PORT"])
    found = {}
    for backend in ("gloo", "cuda:gloo"):
        store = distributed.TCPStore("localhost", port + 5, 2, is_main())
        distributed.init_process_group(
            backend, store=store, rank=rank(), world_size=2, timeout=timedelta(seconds=60)
        )
        try:
            with process_group() as restarts:
                found["told"] = str(gathered(rank())) + str(restarts)
                distributed.barrier()
            assert distributed.is_initialized()
        except UsageError as error:
            found["backend"] = str(error)
        if backend == "gloo":
            local = os.environ.pop("LOCAL_RANK")
            with pytest.raises(UsageError, match="no LOCAL_RANK; set RANK"), process_group():
                pass
            os.environ["LOCAL_RANK"] = local
            distributed.barrier()
        distributed.destroy_process_group()
        port += 1
    return found


def process(number: int, world: int, port: int, work: str, folder: Path, to: Path) -> None:
    os.environ.update(
        RANK=str(number), WORLD_SIZE=str(world), LOCAL_RANK=str(number), LOCAL_WORLD_SIZE=str(world)
    )
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    init = distributed.init_process_group

    def init_elsewhere(*arguments: Any, **more: Any) -> None:
        init(*arguments, **more)
        os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)

    distributed.init_process_group = init_elsewhere  # type: ignore[assignment]
    found = globals()[work](folder, to)
    (to.parent / f"{to.name}-{number}.json").write_text(json.dumps(found))
    os._exit(0)  # a group that lost a process is not torn down in order


def start(
    world: int, work: Callable[[Path, Path], dict[str, str]], folder: Path, to: Path
) -> list[dict[str, str]]:
    """Let processes do some work; what each found."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    to.mkdir()
    context = multiprocessing.get_context("spawn")
    started = [
        context.Process(target=process, args=(n, world, port, work.__name__, folder, to))
        for n in range(world)
    ]
    for child in started:
        child.start()
    for child in started:
        child.join(300)
    assert [child.exitcode for child in started] == [0] * world
    return [json.loads((to.parent / f"{to.name}-{n}.json").read_text()) for n in range(world)]


@pytest.mark.slow
def test_processes_write_what_one_writes(folder: Path, tmp_path: Path) -> None:
    (one,), two, three = (
        start(world, results, folder, tmp_path / str(world)) for world in (1, 2, 3)
    )
    assert one == two[0] == three[0]
    assert {each["record"] for each in (*two, *three)} == {one["record"]}
    folders = Counter(Path(name).parts[0] for name in one)
    assert folders["shards"] == 8 + 8 + 1  # shards, their tables, the index
    # Of pretrained weights, random init and pixels, in both splits: index, indices, digests, and
    # five stages or one.
    assert folders["features"] == 2 * (8 + 8 + 4)
    assert folders["probe"] > 1


@pytest.mark.slow
def test_a_part_may_be_empty(folder: Path, tmp_path: Path) -> None:
    """Of one block in the second half, in three processes: two have nothing."""
    half = folder / "half"
    half.mkdir()
    for number in range(2 * BLOCK + 1):
        path = half / f"{number:02d}.png"
        path.write_bytes(b"\x89PNG nothing")
        if number > BLOCK:
            Image.new("RGB", (20, 20), (number, 0, 0)).save(path)
    first, *others = start(3, nothing_readable, folder, tmp_path / "few")
    assert first["images"] == str(BLOCK)
    assert first["own"] == str([f"{number:02d}.png" for number in range(BLOCK + 1, 2 * BLOCK + 1)])
    assert [other["own"] for other in others] == [
        str([f"{number:02d}.png" for number in range(BLOCK + 1, 2 * BLOCK)]),
        str([f"{2 * BLOCK:02d}.png"]),
    ]
    lost, named = start(2, different_images, folder, tmp_path / "other")
    assert "process 1 on" in named["error"]
    assert "sees other images than process 0" in named["error"]
    assert "type the same command again" in lost["lost"]


@pytest.mark.slow
def test_a_process_group_that_is_there_is_used(folder: Path, tmp_path: Path) -> None:
    first, second = start(2, joined_by_others, folder, tmp_path / "group")
    assert (first["told"], second["told"]) == ("[0, 1]0", "[]0")
    assert "initialize it with the backend cpu:gloo,cuda:nccl" in first["backend"]


AT_EACH_IMAGE = """
import os, time
from ssltool.data.sources import base
encoded = base.FilePerImageSource.encoded
def acting(self, index):
    {what}
    return encoded(self, index)
base.FilePerImageSource.encoded = acting
"""


def command(folder: Path, tmp_path: Path, words: str, what: str) -> subprocess.Popen[str]:
    """A command in two processes, with something that happens at each image."""
    (tmp_path / "sitecustomize.py").write_text(AT_EACH_IMAGE.format(what=what))
    return subprocess.Popen(
        [sys.executable, "-m", "ssltool", *words.split(), "--devices", "2", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
        },
    )


def embed_command(folder: Path, to: Path) -> str:
    weights = folder / "encoder.safetensors"
    return f"embed --weights {weights} --data {folder}/images --workers 0 --to {to}/x.npz"


def check_command(folder: Path, to: Path) -> str:
    del to
    return f"data check {folder}/images"


def pack_command(folder: Path, to: Path) -> str:
    return f"data pack {folder}/images --per-shard 6 --workers 1 --to {to}"


def probe_command(folder: Path, to: Path) -> str:
    weights = folder / "encoder.safetensors"
    data = f"--data {folder}/images --workers 0"
    return f"probe --weights {weights} {data} --to {to} --cache {to}"


@pytest.mark.slow
def test_an_error_in_one_process_is_one_line(folder: Path, tmp_path: Path) -> None:
    what = 'if os.environ.get("RANK") == "1":\n        from ssltool.errors import WeightsError'
    what += '\n        raise WeightsError("the disk of process 1 went away")'
    process = command(folder, tmp_path, embed_command(folder, tmp_path / "out"), what)
    printed, shown = process.communicate()
    assert process.returncode == 1
    assert shown.splitlines()[-1] == "error: the disk of process 1 went away", shown
    assert "Traceback" not in shown
    assert printed == ""
    assert list((tmp_path / "out").iterdir()) == []


def interrupt(
    folder: Path, tmp_path: Path, words: str, number: int, readers: Sequence[int]
) -> None:
    """Send Ctrl-C to a command in two processes once its readers have read some images each."""
    mine = f"{str(tmp_path / 'began')!r} + '-' + os.environ.get('RANK', '') + f'-{{index}}'"
    process = command(folder, tmp_path, words, f"open({mine}, 'w').close(); time.sleep(0.3)")
    deadline = time.monotonic() + 300
    while not all(len(list(tmp_path.glob(f"began-{n}-*"))) >= number for n in readers):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    printed, shown = process.communicate()
    assert process.returncode == 130, shown
    assert shown.splitlines()[-1] == "error: interrupted"
    assert "Traceback" not in shown
    assert printed == ""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize(
    ("words", "readers"), [(embed_command, [1]), (check_command, [0, 1]), (probe_command, [0, 1])]
)
def test_ctrl_c_leaves_nothing(
    folder: Path, tmp_path: Path, words: Callable[[Path, Path], str], readers: list[int]
) -> None:
    """All images are one block for the network: one process of `embed` waits for the other."""
    out = tmp_path / "out"
    interrupt(folder, tmp_path, words(folder, out), 3, readers)
    assert not out.exists() or list(out.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
def test_ctrl_c_leaves_whole_shards_to_continue_from(folder: Path, tmp_path: Path) -> None:
    """Each process has written a shard and is in the middle of another."""
    out, words = tmp_path / "out", pack_command(folder, tmp_path / "out")
    interrupt(folder, tmp_path, words, 9, [0, 1])
    left = {path.name: path.read_bytes() for path in out.iterdir()}
    assert not [name for name in left if not re.fullmatch(rf"shard-\d+\.tar|{UNFINISHED}", name)]
    shards = left.keys() - {UNFINISHED}
    assert 2 <= len(shards) < 8
    for name in shards:
        with tarfile.open(out / name) as tar:
            assert sum(member.name.endswith(".json") for member in tar) >= 4
    printed, shown = command(folder, tmp_path, words, "pass").communicate()
    assert json.loads(printed)["images"] == 40, shown
    assert UNFINISHED not in {path.name for path in out.iterdir()}
    assert {name: (out / name).read_bytes() for name in shards} == {n: left[n] for n in shards}


def printed(*words: str) -> str:
    """What a module prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_memory_bank_is_whole_where_the_first_process_measures(tmp_path: Path) -> None:
    """In training the bank of `npid` is divided; a probe under ``--devices 2`` reads all of it."""
    options = {"steps": 2, "batch_size": 8, "backbone": "resnet20", "image_size": 32}
    run = ssltool.pretrain("npid", data="demo:48", out=tmp_path / "run", workers=0, **options)
    probing = f"ssltool probe --weights {run.folder} --data demo:48 --kind knn --workers 0 --json"
    words = [*probing.split(), "--no-keep-features", "--to"]
    one, two = (
        json.loads(
            printed(*words, str(tmp_path / n), "--devices", n).replace(str(tmp_path / n), "")
        )
        for n in "12"
    )
    assert one == two
    assert BANK in {row["stage"] for row in one["rows"]}


@pytest.mark.slow
def test_a_dry_run_counts_all_processes(tmp_path: Path) -> None:
    launcher = "torch.distributed.run --standalone --nproc-per-node 2 -m"
    dry = "ssltool pretrain jigsaw --data demo:48 --dry-run --steps 9 --image-size 32"
    dry += " --backbone resnet20 --batch-size 4 --workers 0 --device cpu"
    alone, both = printed(*dry.split()), printed(*launcher.split(), *dry.split())
    lines = {line.split()[0]: line.split(None, 1)[1] for line in both.splitlines()}
    assert lines["processes"] == "2, gradients averaged after the backward pass"
    assert both.count("Dry run OK") == 1  # one process prints
    assert lines["batch"] == "8 images"
    assert "batch      4 images" in alone
    assert "processes" not in alone

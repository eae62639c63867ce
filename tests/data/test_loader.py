"""Batches: one order for any number of workers and ranks, exact continuation, broken files, the
cache, dead workers.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from ssltool.data.batch import Batch
from ssltool.data.loader import AllImages, TrainBatches
from ssltool.data.sources.base import Source
from ssltool.data.sources.folder import FolderSource
from ssltool.data.workers import _copied_ahead, _timed, default_workers
from ssltool.errors import DataError, SslToolError, UnreadableImage, UsageError

WORKERS = [0, 1, 2]
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at child processes in /proc")


class Numbered(Source):
    """Image i is filled with i, in red; remembers what was read."""

    def __init__(self, count: int, broken: tuple[int, ...] = ()) -> None:
        self.count, self.broken = count, broken
        self.description = f"{count} numbered images"
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.count

    def read(self, index: int, size: int) -> NDArray[np.uint8]:
        self.reads.append(index)
        if index in self.broken:
            raise UnreadableImage("torn")
        image = np.zeros((size, size, 3), np.uint8)
        image[..., 0] = index
        image[0, 1] = (1, 2, 3)  # row 0, column 1: tells transposed images
        return image

    def short_side(self, index: int) -> int:
        return 8

    def name(self, index: int) -> str:
        return f"image {index}"

    def label(self, index: int) -> None:
        return None

    def fingerprint(self, *, content: bool = False) -> str:
        return str(self.count)


class Deadly(Numbered):
    """Reading image 5 ends the process."""

    how = 3

    def read(self, index: int, size: int) -> NDArray[np.uint8]:
        if index == 5:
            os._exit(self.how)
        return super().read(index, size)


class Buggy(Numbered):
    def read(self, index: int, size: int) -> NDArray[np.uint8]:
        raise RuntimeError("a defect of ours")


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    """Fail, not hang, if a worker is waited for that never comes."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError("a test hangs")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(40)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def train(source: Source, **options: Any) -> TrainBatches:
    return TrainBatches(source, **{"size": 4, "batch_size": 4, "seed": 0, "workers": 0, **options})


def taken(batches: TrainBatches, count: int, start: int = 0) -> list[Batch]:
    with batches:
        return list(islice(batches.from_step(start), count))


def indices_of(batches: list[Batch]) -> list[list[int]]:
    return [batch.indices.tolist() for batch in batches]


def flat(batches: list[Batch]) -> list[int]:
    return list(chain.from_iterable(indices_of(batches)))


def children() -> set[int]:
    """Process ids of the living children of this process."""
    pids = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if int(parent) == os.getpid() and state != "Z":
                pids.add(int(folder.name))
    return pids


def assert_equal(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.indices, other.indices)
        assert one.epoch == other.epoch


# What a batch holds


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_holds_the_images_it_names(workers: int) -> None:
    for batch in taken(train(Numbered(10), workers=workers), 5):
        assert batch.images.shape == (4, 3, 4, 4)
        assert (batch.images.dtype, batch.indices.dtype) == (torch.uint8, torch.int64)
        assert batch.images[:, 0, 2, 2].tolist() == batch.indices.tolist()
        assert batch.images[:, :, 0, 1].tolist() == [[1, 2, 3]] * 4
        assert batch.images[:, :, 1, 0].tolist() == [
            [index, 0, 0] for index in batch.indices.tolist()
        ]
        assert batch.wait >= 0


# Order


def test_each_epoch_is_a_permutation() -> None:
    batches = taken(train(Numbered(12)), 9)
    epochs = [flat(batches[3 * e : 3 * e + 3]) for e in range(3)]
    assert [batch.epoch for batch in batches] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != list(range(12))


def test_the_rest_of_an_epoch_is_left_out() -> None:
    batches = train(Numbered(11))
    assert batches.steps_per_epoch == 2
    epoch = flat(taken(batches, 2))
    assert len(set(epoch)) == 8
    left_out = [set(range(11)) - set(flat(taken(batches, 2, start))) for start in (0, 2, 4)]
    assert len({frozenset(each) for each in left_out}) > 1  # not always the same images


def test_order_is_that_of_the_documented_generator() -> None:
    for epoch in (0, 1):
        order = np.random.Generator(np.random.PCG64([7, epoch])).permutation(12)
        assert flat(taken(train(Numbered(12), seed=7), 3, 3 * epoch)) == order.tolist()


def test_seeds_differ() -> None:
    assert indices_of(taken(train(Numbered(50)), 3)) != indices_of(
        taken(train(Numbered(50), seed=1), 3)
    )


def test_order_does_not_depend_on_workers() -> None:
    runs = [taken(train(Numbered(13, broken=(2, 7)), workers=workers), 8) for workers in WORKERS]
    assert_equal(runs[0], runs[1])
    assert_equal(runs[0], runs[2])


def test_from_step_continues_an_uninterrupted_run() -> None:
    batches = train(Numbered(13))
    whole = taken(batches, 9)
    for start in range(8):  # 3 batches an epoch: within, at the end of, and beyond the first
        assert_equal(taken(batches, 9 - start, start), whole[start:])
    assert_equal(taken(train(Numbered(13), workers=2), 4, 5), whole[5:])


def test_streams_of_one_loader_do_not_disturb_each_other() -> None:
    batches = train(Numbered(13))
    first, second = batches.from_step(0), batches.from_step(4)
    assert indices_of([next(second)]) == indices_of(taken(train(Numbered(13)), 1, 4))
    assert indices_of([next(first)]) == indices_of(taken(train(Numbered(13)), 1, 0))


def test_two_ranks_together_are_one_process_with_twice_the_batch() -> None:
    source = Numbered(29)
    alone = taken(train(source, batch_size=8), 7)
    ranks = [taken(train(source, rank=rank, world=2), 7) for rank in (0, 1)]
    for whole, left, right in zip(alone, *ranks, strict=True):
        assert torch.equal(whole.images, torch.cat([left.images, right.images]))
        assert torch.equal(whole.indices, torch.cat([left.indices, right.indices]))
        assert whole.epoch == left.epoch == right.epoch
    assert train(source, rank=1, world=2).steps_per_epoch == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_torch_s_own_generator_is_left_alone(workers: int) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    taken(train(Numbered(10), workers=workers), 3)
    with AllImages(Numbered(10), size=4, batch_size=4, workers=workers) as images:
        list(images)
    assert torch.equal(torch.get_rng_state(), before)


def test_too_few_images() -> None:
    with pytest.raises(UsageError) as caught:
        train(Numbered(7), world=2)
    assert str(caught.value) == "7 images but a batch of 8: add images, or type --batch-size 3"


# Broken images


@pytest.mark.parametrize("workers", WORKERS)
def test_an_unreadable_image_is_replaced_by_the_next_and_reported_once(workers: int) -> None:
    batches = train(Numbered(12, broken=(3, 4, 11)), workers=workers)
    read = flat(taken(batches, 6))
    asked = flat(taken(train(Numbered(12)), 6))
    assert read == [{3: 5, 4: 5, 11: 0}.get(index, index) for index in asked]
    assert batches.skipped == {"image 3": "torn", "image 4": "torn", "image 11": "torn"}


def test_broken_files_on_disk(tmp_path: Path) -> None:
    for number in range(6):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:40])
    batches = train(FolderSource(tmp_path), batch_size=6)
    (batch,) = taken(batches, 1)
    assert sorted(batch.images[:, 0, 0, 0].tolist()) == [0, 1, 3, 3, 4, 5]
    assert list(batches.skipped) == [str(tmp_path / "2.png")]


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_readable_is_an_error_of_one_line(workers: int) -> None:
    with pytest.raises(DataError) as caught:
        taken(train(Numbered(9, broken=tuple(range(9))), workers=workers), 1)
    assert type(caught.value) is DataError
    text = str(caught.value)
    assert text.startswith("no image of 9 numbered images can be read any more; last: image ")
    assert text.isprintable()


def test_nothing_readable_is_found_by_reading_each_image_once() -> None:
    source = Numbered(9, broken=tuple(range(9)))
    with pytest.raises(DataError):
        taken(train(source), 1)
    assert sorted(source.reads) == list(range(9))


class Vanishing(Numbered):
    """Nothing can be read after ``left`` reads, as when a folder is unmounted."""

    left = 8

    def read(self, index: int, size: int) -> NDArray[np.uint8]:
        self.left -= 1
        if self.left < 0:
            raise UnreadableImage("transport endpoint is not connected")
        return super().read(index, size)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("cache_bytes", [0, 10**6])
def test_images_that_vanish_end_the_batches_in_time(workers: int, cache_bytes: int) -> None:
    """Not after a try of each, and not by training on what is in the cache alone."""
    loader = train(Vanishing(200), workers=workers, cache_bytes=cache_bytes)
    with loader:
        batches = loader.from_step(0)
        assert len(list(islice(batches, 2))) == 2
        with pytest.raises(DataError, match=r"any more; last: image .* is not connected"):
            next(batches)
    assert len(loader.skipped) <= 1 + workers


def test_many_damaged_images_are_not_taken_for_vanished_ones() -> None:
    source = Numbered(200, broken=tuple(range(3, 200)))
    assert set(flat(taken(train(source), 60))) == {0, 1, 2}


# The cache


@pytest.mark.parametrize("workers", [0, 2])
def test_the_cache_changes_nothing(workers: int) -> None:
    plain = taken(train(Numbered(13, broken=(4,))), 9)
    cached = train(Numbered(13, broken=(4,)), workers=workers, cache_bytes=10_000)
    assert_equal(taken(cached, 9), plain)
    assert_equal(taken(cached, 9), plain)


def test_the_cache_reads_each_image_once() -> None:
    source = Numbered(12)
    taken(train(source, cache_bytes=12 * 48), 9)
    assert sorted(source.reads) == list(range(12))


def test_no_cache_where_not_all_images_fit() -> None:
    source = Numbered(12)
    taken(train(source, cache_bytes=12 * 48 - 1), 9)
    assert sorted(source.reads) == sorted([*range(12)] * 3)


def test_a_batch_is_a_copy_of_the_cache() -> None:
    batches = train(Numbered(4), cache_bytes=1000)
    taken(batches, 1)[0].images.zero_()
    assert sorted(taken(batches, 1)[0].images[:, 0, 2, 2].tolist()) == [0, 1, 2, 3]


@linux
def test_forked_workers_share_the_cache(tmp_path: Path) -> None:
    for number in range(8):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / f"{number}.png")
    batches = train(FolderSource(tmp_path), workers=2, cache_bytes=1000)
    first = taken(batches, 2)  # each worker has read one half, and both are gone
    for file in tmp_path.iterdir():
        file.unlink()
    assert_equal(taken(batches, 2), first)


def test_workers_that_are_not_forked_get_no_copy_of_the_cache() -> None:
    batches = train(Numbered(12), cache_bytes=1000)
    taken(batches, 3)
    copy = pickle.loads(pickle.dumps(batches._batches))
    assert copy._cache is None
    assert batches._batches._cache is not None


# Reading everything once


@pytest.mark.parametrize("workers", WORKERS)
def test_all_images_in_order(workers: int) -> None:
    with AllImages(Numbered(11, broken=(0, 4, 5)), size=4, batch_size=3, workers=workers) as images:
        batches = list(images)
        assert len(images) == 11
    assert indices_of(batches) == [[1, 2], [3], [6, 7, 8], [9, 10]]
    assert all(batch.images[:, 0, 2, 2].tolist() == batch.indices.tolist() for batch in batches)
    assert images.skipped == {f"image {index}": "torn" for index in (0, 4, 5)}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_selection_in_the_given_order(workers: int) -> None:
    source = Numbered(20, broken=(3,))
    with AllImages(
        source, size=4, batch_size=2, workers=workers, indices=[9, 3, 3, 0, 19]
    ) as images:
        assert indices_of(list(images)) == [[9], [0], [19]]
        assert indices_of(list(images)) == [[9], [0], [19]]  # again
        assert len(images) == 5
    assert images.skipped == {"image 3": "torn"}


def test_nothing_asked_and_nothing_readable() -> None:
    assert list(AllImages(Numbered(3), size=4, batch_size=2, indices=[])) == []
    images = AllImages(Numbered(3, broken=(0, 1, 2)), size=4, batch_size=2)
    assert list(images) == []
    assert len(images.skipped) == 3


# Workers


def test_default_workers() -> None:
    assert 1 <= default_workers() <= 16


@linux
def test_close_ends_the_workers() -> None:
    before = children()
    batches = train(Numbered(20), workers=2)
    stream = batches.from_step(0)
    next(stream)
    assert len(children() - before) == 2
    batches.close()
    assert children() == before
    batches.close()
    assert indices_of(taken(batches, 2)) == indices_of(
        taken(train(Numbered(20)), 2)
    )  # can be used again
    assert children() == before


@linux
def test_an_abandoned_iteration_ends_its_workers() -> None:
    before = children()
    for _ in AllImages(Numbered(20), size=4, batch_size=2, workers=1):
        break
    stream = train(Numbered(20), workers=1).from_step(0)
    next(stream)
    del stream
    assert children() == before


@linux
def test_an_error_in_the_training_loop_ends_the_workers() -> None:
    before = children()

    def interrupted() -> None:
        with train(Numbered(20), workers=2) as batches:
            for _ in batches.from_step(0):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert children() == before


@linux
def test_workers_leave_signals_to_the_main_process() -> None:
    """Ctrl-C and a job's SIGTERM reach every process; the step in progress needs batches."""
    before = children()
    with train(Numbered(20), workers=2) as batches:
        stream = batches.from_step(0)
        read = list(islice(stream, 4))
        for child in children() - before:
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
                os.kill(child, number)
        time.sleep(0.1)
        assert len(children() - before) == 2
        read += islice(stream, 20)
    assert_equal(read, taken(train(Numbered(20)), 24))
    assert children() == before


ORPHANS = """
import signal, sys
sys.path[:0] = {paths!r}
from test_loader import Numbered, children, train
batches = train(Numbered(20), workers=2)
stream = batches.from_step(0)
next(stream)
print(*children(), flush=True)
signal.pause()
"""


@linux
@pytest.mark.slow
def test_workers_end_with_a_killed_process() -> None:
    paths = [str(Path(__file__).parent), *sys.path]
    process = subprocess.Popen(
        [sys.executable, "-c", ORPHANS.format(paths=paths)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    workers = process.stdout.readline().split()
    assert len(workers) == 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def assert_names_the_death(error: SslToolError) -> None:
    text = str(error)
    assert text.startswith("a decoding process died (")
    assert "DataLoader worker (pid" in text or "while it sent a batch" in text
    assert "type --workers 0" in text
    assert text.isprintable()


@pytest.mark.parametrize("how", [3, pytest.param(0, marks=pytest.mark.slow)])
def test_a_worker_that_dies_is_one_line(how: int) -> None:
    source = Deadly(20)
    source.how = how
    with pytest.raises(SslToolError) as caught:
        taken(train(source, workers=1), 40)
    assert_names_the_death(caught.value)


class CutOff:
    """A loader with workers whose line is cut, or whose worker met an error itself."""

    _workers = [object()]

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __iter__(self) -> CutOff:
        return self

    def __next__(self) -> None:
        raise self.error


@pytest.mark.parametrize(
    "error", [EOFError(), ConnectionResetError(104, "reset"), FileNotFoundError(2, "gone")]
)
def test_a_worker_that_dies_while_it_sends_a_batch(error: Exception) -> None:
    with pytest.raises(SslToolError) as caught:
        next(_timed(CutOff(error), {}))  # type: ignore[arg-type]
    assert_names_the_death(caught.value)


def test_what_a_worker_raised_itself_is_not_taken_for_its_death() -> None:
    with pytest.raises(EOFError, match="Caught"):
        next(_timed(CutOff(EOFError("Caught EOFError in DataLoader worker process 0.")), {}))  # type: ignore[arg-type]


def test_a_worker_that_dies_while_everything_is_read_once() -> None:
    with (
        pytest.raises(SslToolError) as caught,
        AllImages(Deadly(20), size=4, batch_size=2, workers=1) as images,
    ):
        list(images)
    assert_names_the_death(caught.value)


@linux
def test_a_worker_killed_while_the_main_process_computes_is_one_line() -> None:
    before = children()

    def killed() -> None:
        with train(Numbered(20), workers=1) as batches:
            stream = batches.from_step(0)
            next(stream)
            os.kill((children() - before).pop(), signal.SIGKILL)
            time.sleep(20)  # torch raises here, wherever the main process happens to be

    with pytest.raises(SslToolError, match="killed by signal: Killed"):
        killed()
    assert children() == before


@pytest.mark.parametrize("workers", [0, 1])
def test_a_defect_is_not_taken_for_a_death(workers: int) -> None:
    with pytest.raises(RuntimeError, match="a defect of ours"):
        taken(train(Buggy(9), workers=workers), 1)


SCRIPT = """
from ssltool.data.loader import TrainBatches
from ssltool.data.sources.demo import DemoSource
batches = TrainBatches(DemoSource(40), size=8, batch_size=4, seed=0, workers=2)
stream = batches.from_step(0)
next(stream)
print("done", flush=True)
"""


@pytest.mark.slow
@pytest.mark.ci
def test_a_script_that_never_closes_its_loader_still_ends() -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=30)
    assert (run.returncode, run.stdout) == (0, "done\n"), run.stderr


# Copies to a GPU


def test_a_batch_is_copied_before_the_one_before_it_is_handed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[str] = []

    class Stream:
        def __init__(self, name: object) -> None:
            self.copies = 0

        def record_event(self) -> int:
            self.copies += 1
            log.append(f"copy {self.copies - 1}")
            return self.copies - 1

        def wait_event(self, event: int) -> None:
            log.append(f"wait {event}")

    inside: list[object] = []

    @contextmanager
    def stream(chosen: object) -> Iterator[None]:
        inside.append(chosen)
        yield
        inside.pop()

    computing = Stream("computing")
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(
        torch.Tensor,
        "record_stream",
        lambda self, s: log.append("keep" if s is computing else "bad"),
    )
    batches = (Batch(torch.full((1,), i), torch.tensor([i]), 0, 0.0) for i in range(3))
    values = []
    for batch in _copied_ahead(batches, torch.device("cpu")):
        log.append(f"step {int(batch.indices)}")
        values.append(int(batch.images))
    assert values == [0, 1, 2]
    assert log == [
        *("copy 0", "copy 1", "wait 0", "keep", "keep", "step 0"),
        *("copy 2", "wait 1", "keep", "keep", "step 1"),
        *("wait 2", "keep", "keep", "step 2"),
    ]


def test_nothing_to_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    assert list(_copied_ahead(iter(()), torch.device("cpu"))) == []


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@cuda
def test_batches_arrive_whole_on_a_gpu() -> None:
    here, there = taken(train(Numbered(40)), 12), taken(train(Numbered(40), device="cuda"), 12)
    for expected, batch in zip(here, there, strict=True):
        assert torch.equal(batch.images.cpu(), expected.images)
        assert torch.equal(batch.indices.cpu(), expected.indices)

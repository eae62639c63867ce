"""What all tests share: one thread per process, and demo images that are drawn once.

The suite runs in several processes, and small tensors gain nothing from threads.
"""

from __future__ import annotations

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch is imported, here and in the commands that tests start

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

# Time is measured in benchmarks: a test that is slow beside other work is right.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

_LONGEST = {
    f"test_{name}.py"
    for name in (
        "pretrain",
        "probe",
        "distributed",
        "encoders",
        "weights",
        "contract",
        "task",
        "predictions",
        "compare",
    )
}
_PICTURES: dict[tuple[int, int, int], Any] = {}  # by seed, place and size


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take the longest, so that no process is left alone with one at the
    end.
    """
    items.sort(key=lambda item: item.path.name not in _LONGEST)


@pytest.fixture(autouse=True, scope="module")
def demo_images_are_kept(request: pytest.FixtureRequest) -> Iterator[None]:
    """Dozens of runs see the same few images; only the tests of the demo itself draw them anew."""
    from ssltool.data.sources.demo import DemoSource

    read = DemoSource.read
    with pytest.MonkeyPatch.context() as patched:
        if not request.module.__name__.endswith("test_demo"):

            def kept(self: DemoSource, index: int, size: int) -> Any:
                key = (self._seed, index, size)
                if key not in _PICTURES:
                    _PICTURES[key] = read(self, index, size)
                return _PICTURES[key].copy()

            patched.setattr(DemoSource, "read", kept)
        yield

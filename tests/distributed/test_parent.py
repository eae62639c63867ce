"""Children that end with their parent."""

from __future__ import annotations

import os
import select
import signal
import sys
import time

import pytest

from ssltool.distributed.parent import end_with_parent

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")


@pytest.mark.parametrize("patience", [0.0, 0.1])
def test_a_child_ends_with_its_parent(patience: float) -> None:
    ready, alive = os.pipe()
    parent = os.fork()
    if parent == 0:
        own = os.getpid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, lambda number, frame: os.write(alive, b"asked") and None)
            end_with_parent(own, poll=0.01, patience=patience)
            os.write(alive, b"here")
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                time.sleep(0.01)
        signal.pause()
    os.close(alive)  # from here on the grandchild alone holds it, besides its parent
    assert os.read(ready, 100) == b"here"
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    heard = b""
    while select.select([ready], [], [], 30)[0]:
        data = os.read(ready, 100)
        if not data:  # nobody holds the other end any more
            break
        heard += data
    else:
        pytest.fail("the child is still there")
    assert heard == (b"asked" if patience else b"")

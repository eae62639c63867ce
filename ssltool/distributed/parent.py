"""Processes that end when their parent does, even if it was killed."""

from __future__ import annotations

import os
import signal
import threading
import time


def end_with_parent(parent: int, *, poll: float = 1.0, patience: float = 0.0) -> threading.Thread:
    """End this process soon after its parent has died.

    Windows does not tell when a parent has died; there this does nothing.

    Args:
        parent: Process id of the parent, taken before this process began if it can be.
        poll: Seconds between checks of the parent.
        patience: Seconds to leave in order: the process first gets SIGTERM, on which a run saves a
            checkpoint. With 0 it ends at once.

    Returns:
        The watching thread.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(poll)
        if patience:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(patience)
        os._exit(1)

    thread = threading.Thread(target=watch, name="end-with-parent", daemon=True)
    thread.start()
    return thread

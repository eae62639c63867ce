"""The signals that end a command; SIGTERM as an exception, so that files are cleaned up."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def hangup_signals() -> tuple[signal.Signals, ...]:
    """SIGHUP, which the loss of the terminal sends, unless it is ignored (nohup) or unknown
    (Windows).
    """
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is None or signal.getsignal(hangup) == signal.SIG_IGN:
        return ()
    return (hangup,)


@contextmanager
def terminated_in_order() -> Iterator[None]:
    """Inside of the block let SIGTERM, which a launcher sends, raise what Ctrl-C does: temporary
    files are removed. Outside the main thread signals cannot be caught and none is.

    Raises:
        KeyboardInterrupt: SIGTERM came.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

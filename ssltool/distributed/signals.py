"""The signals that end a command; SIGTERM as an exception, so that files are cleaned up."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
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
    files are removed. Of no effect outside the main thread.

    Raises:
        KeyboardInterrupt: SIGTERM came.
    """
    with raising(signal.SIGTERM, KeyboardInterrupt):
        yield


@contextmanager
def raising(number: signal.Signals, error: Callable[[], BaseException]) -> Iterator[None]:
    """Inside of the block let a signal raise ``error()``, in the main thread; elsewhere signals
    cannot be caught, and none is.
    """

    def handle(received: int, frame: FrameType | None) -> None:
        raise error()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handle)
    try:
        yield
    finally:
        signal.signal(number, before)

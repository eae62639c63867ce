"""Stop requests: Ctrl-C, SIGTERM and SIGHUP as a flag that a run reads between steps."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from ssltool.distributed.signals import hangup_signals


class StopRequest:
    """Set once a stop was asked for.

    Attributes:
        asked: True after the first signal.
    """

    def __init__(self) -> None:
        self.asked = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal; a second one interrupts at once, except a hangup: the end of a
        terminal sends several.
        """
        if number in hangup_signals():
            _leave_terminal()
        elif self.asked:
            raise KeyboardInterrupt
        self.asked = True


def _leave_terminal() -> None:
    """Send what is printed from here on to nowhere, if its terminal or pipe is gone: a failed
    print must not cost the checkpoint.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            descriptor = stream.fileno()
            gone = select.POLLERR | select.POLLHUP
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            if any(event & gone for _, event in poll.poll(0)):
                os.dup2(nowhere, descriptor)
    os.close(nowhere)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catch SIGINT, SIGTERM and SIGHUP inside the block. Outside the main thread signals cannot be
    caught and none is.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = (signal.SIGINT, signal.SIGTERM, *hangup_signals())
    before = [signal.signal(number, request.handle) for number in numbers]
    try:
        yield request
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)

"""Every error a user can meet, as one tree.

::

    SslToolError                exit 1   something went wrong while running
    ├── UsageError              exit 2   the command as typed cannot work
    │   └── UnknownNameError    exit 2   a name that does not exist; the nearest are suggested
    ├── DataError               exit 1   the images or labels cannot be used
    │   └── UnreadableImage              one image; the loader catches, counts and skips it
    ├── WeightsError            exit 1   a weights file is damaged or does not fit
    ├── CheckpointError         exit 1   a run folder cannot be written or resumed
    │   └── DiskFullError       exit 1   no space left; earlier checkpoints are intact
    ├── NonFiniteLossError      exit 1   the loss became NaN or infinite
    ├── ProcessLost             exit 1   another process of the same run has ended
    └── Interrupted             exit 130 stopped by a signal, with a checkpoint saved

Each message is one line: what was found, what was expected, what to type next.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class SslToolError(Exception):
    """Base of all errors meant for the user; the command line prints the message alone."""

    exit_code = 1


class UsageError(SslToolError):
    """The command as typed cannot work: an option, a path or a combination is wrong."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that does not exist.

    Args:
        kind: What the name stands for, such as ``"backbone"``.
        name: The name as typed.
        available: The names that exist; the nearest of them are suggested.
        hint: How to list them all, for example ``"'ssltool methods' lists them"``.
    """

    def __init__(self, kind: str, name: str, available: Iterable[str], hint: str = "") -> None:
        names = sorted(available)
        near = get_close_matches(name[:100], names, n=3, cutoff=0.5)
        if near:
            advice = "did you mean " + " or ".join(near) + "?"
        elif len(names) <= 12:
            advice = "available: " + ", ".join(names)
        else:
            advice = f"{len(names)} are available"
        shown = name[:100] if name.startswith("--") else f"{name!r:.100}"
        parts = (f"unknown {kind} {shown}", advice if names else "")
        super().__init__("; ".join(filter(None, parts)) + (f" ({hint})" if hint else ""))


class DataError(SslToolError):
    """The images or labels cannot be used, for example a folder without a readable image."""


class UnreadableImage(DataError):
    """One image cannot be read. The loader catches it, reports the image once and skips it."""


class WeightsError(SslToolError):
    """A weights file is damaged, of another format, or does not fit the encoder."""


class CheckpointError(SslToolError):
    """A run folder cannot be written to, or holds nothing that can be resumed."""


class DiskFullError(CheckpointError):
    """No space is left on the disk. Earlier checkpoints are intact."""


class NonFiniteLossError(SslToolError):
    """The loss became NaN or infinite.

    The message names the step, the last good checkpoint and what to try.
    """


class ProcessLost(SslToolError):
    """Another process of the same run has ended; the error of that process is the cause."""


class Interrupted(SslToolError):
    """The run was stopped by Ctrl-C, SIGTERM or SIGHUP and its state was saved."""

    exit_code = 130


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: torch has an exception for it on a GPU only."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "DefaultCPUAllocator" in text or "out of memory" in text
    )

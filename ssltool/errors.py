"""Every error a user can meet, as one tree.

::

    SslToolError                exit 1   anything that goes wrong while running
    ├── UsageError              exit 2   what was typed cannot work
    │   └── UnknownNameError    exit 2   a name that is not on the list; the nearest ones are
    suggested ├── DataError               exit 1   the images as a whole cannot be used │   └──
    UnreadableImage            one image; caught by the loader, counted and skipped ├── WeightsError
    exit 1   a weights file that is not what it should be ├── CheckpointError         exit 1   a run
    folder that cannot be saved to or resumed from │   └── DiskFullError       exit 1   no space
    left; what was saved before is intact ├── NonFiniteLossError      exit 1   the loss became NaN
    or infinite ├── ProcessLost             exit 1   another process of the same run has ended └──
    Interrupted             exit 130 stopped by Ctrl-C or SIGTERM, with a checkpoint saved

Each message is one line: what was found, what was expected, what to type next.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class SslToolError(Exception):
    """Base of all errors meant for the user; the command line prints its message and nothing else."""

    exit_code = 1


class UsageError(SslToolError):
    """The command as typed cannot work: an option, a path or a combination is wrong."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that is not among the known ones.

    Args:
        kind: What the name stands for, such as ``"backbone"``.
        name: The name as typed.
        known: The names that exist; the nearest of them are suggested.
        hint: How to list them all, for example ``"'ssltool methods' lists them"``.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        names = sorted(known)
        near = get_close_matches(name, names, n=3, cutoff=0.5)
        if near:
            advice = "did you mean " + " or ".join(near) + "?"
        elif len(names) <= 12:
            advice = "known: " + ", ".join(names)
        else:
            advice = f"{len(names)} are known"
        super().__init__(f"unknown {kind} {name!r}; {advice}" + (f" ({hint})" if hint else ""))


class DataError(SslToolError):
    """The images as a whole cannot be used, for example a folder with nothing readable in it."""


class UnreadableImage(DataError):
    """One image cannot be read. The loader catches it, names the file once and goes on without it."""


class WeightsError(SslToolError):
    """A weights file is truncated, of another format, or does not fit the encoder it is meant for."""


class CheckpointError(SslToolError):
    """A run folder cannot be written to, or holds nothing that can be resumed."""


class DiskFullError(CheckpointError):
    """The disk has no space left. Whatever was saved before is intact."""


class NonFiniteLossError(SslToolError):
    """The loss became NaN or infinite; the message names the step, the last good checkpoint and
    what to try.
    """


class ProcessLost(SslToolError):
    """Another process of the same run has ended, so this one cannot go on; the error of that one is
    what counts.
    """


class Interrupted(SslToolError):
    """The run was stopped by Ctrl-C or SIGTERM and its state was saved."""

    exit_code = 130

"""One of the processes of ``--devices N``: ``python -m ssltool.training.worker FOLDER``, started by
`launch`.

It prints no error: it writes it into the folder, and the command that was typed prints the first of
them.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from pathlib import Path

from rich.console import Console

from ssltool.atomic import atomic_file
from ssltool.distributed.collectives import is_main, rank
from ssltool.errors import SslToolError
from ssltool.training.memory import keep_freed_memory
from ssltool.training.pretrain import pretrain
from ssltool.training.request import Request


def main(folder: Path) -> int:
    """Run the request of a folder; the first process leaves the result there. Returns the exit
    code.
    """
    try:
        request = Request.read(folder)
        result = pretrain(
            request.choice,
            resume=request.resume,
            overwrite=request.overwrite,
            dry_run=request.dry_run,
            console=Console(stderr=True, quiet=request.quiet, highlight=False, soft_wrap=True),
        )
    except SslToolError as error:
        _note(folder, type(error).__name__, str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception:
        _note(folder, "", traceback.format_exc())
        return 1
    if is_main():
        with atomic_file(folder / "result.json") as temporary:
            temporary.write_text(json.dumps(result), encoding="utf-8")
    return 0


def _note(folder: Path, kind: str, message: str) -> None:
    """Write down why this process ends."""
    with atomic_file(folder / f"error-{rank()}.json") as temporary:
        document = {"time": time.time(), "kind": kind, "message": message}
        temporary.write_text(json.dumps(document), encoding="utf-8")


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main(Path(sys.argv[1])))

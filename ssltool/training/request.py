"""A request to pretrain, as it travels from the command to the processes it starts: JSON in a
folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ssltool.methods.registry import find_method
from ssltool.runs.config import Choice, validated

_FILE = "request.json"


@dataclass(frozen=True)
class Request:
    """What `ssltool.training.pretrain.pretrain` is asked to do.

    Attributes:
        choice: Method and options; which of them were typed is kept.
        resume: Continue a run.
        overwrite: Replace one.
        dry_run: Take two steps and write nothing.
        quiet: Show no progress.
    """

    choice: Choice
    resume: bool = False
    overwrite: bool = False
    dry_run: bool = False
    quiet: bool = False

    def write(self, folder: Path) -> None:
        """Write it into a folder."""
        choice = self.choice
        options = {
            **choice.run.model_dump(mode="json", exclude_unset=True),
            **choice.task.model_dump(mode="json", exclude_unset=True),
        }
        rest = {name: getattr(self, name) for name in ("resume", "overwrite", "dry_run", "quiet")}
        document = {"method": choice.method, "options": options, **rest}
        (folder / _FILE).write_text(json.dumps(document), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read it from a folder."""
        document = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        method = document.pop("method")
        return cls(validated(method, find_method(method), document.pop("options")), **document)

"""Write a report on one or more runs: one HTML page that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

import ssltool
from ssltool.atomic import atomic_file
from ssltool.runs.folder import short_names
from ssltool.visualizing.report.page import render_page
from ssltool.visualizing.report.reading import read_run_files
from ssltool.visualizing.report.sections import RunSection, run_section


class ReportedRun(BaseModel):
    """A run on the page.

    Attributes:
        name: Short, and different from those of other runs on the page.
        folder: Of the run.
        method: Of the run; empty if unknown.
        step: Of its last line of metrics.
        missing: Sentences on what is not on the page.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    folder: Path
    method: str
    step: int
    missing: tuple[str, ...]


class Report(BaseModel):
    """What `write_report` wrote.

    Attributes:
        path: The page.
        bytes: Its size.
        runs: The runs on it.
    """

    model_config = ConfigDict(frozen=True)

    path: Path
    bytes: int
    runs: tuple[ReportedRun, ...]


def write_report(folders: Sequence[Path], to: Path | None = None, frames: int = 16) -> Report:
    """Write one page on one or more runs; several are compared.

    What a folder lacks is named on the page. Only a folder with nothing of a run is an error.

    Args:
        folders: Run folders, or weights files in them. They may be unfinished or damaged.
        to: The page; automatic: ``report.html`` in the run folder, or here for several runs.
        frames: Largest number of predictions over time shown of each run, evenly spread.

    Raises:
        UsageError: A folder does not exist or holds nothing of a run, or the extra ``report`` is
            not installed.
    """
    paths = [folder.parent if folder.is_file() else folder for folder in folders]
    paths = list({path.resolve(): path for path in paths}.values())
    read = [
        read_run_files(path, name, frames)
        for path, name in zip(paths, short_names(paths), strict=True)
    ]
    sections = [run_section(files) for files in read]
    text = render_page(sections, _title(sections), f"Made by ssltool {ssltool.__version__}")
    to = to or (paths[0] if len(paths) == 1 else Path()) / "report.html"
    with atomic_file(to) as temporary:
        temporary.write_text(text, encoding="utf-8")
    reported = tuple(
        ReportedRun(
            name=files.name,
            folder=files.folder,
            method=files.method,
            step=files.step,
            missing=tuple(map(str, files.missing)),
        )
        for files in read
    )
    return Report(path=to, bytes=len(text.encode()), runs=reported)


def _title(sections: Sequence[RunSection]) -> str:
    if len(sections) == 1:
        return sections[0].heading
    methods = dict.fromkeys(section.summary.method or "unknown method" for section in sections)
    of = next(iter(methods)) if len(methods) == 1 else f"{len(methods)} methods"
    return f"{len(sections)} runs of {of}"

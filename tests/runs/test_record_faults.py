from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_runs import probe_record, run_record

from ssltool.errors import CheckpointError
from ssltool.runs.probe_record import ProbeRecord
from ssltool.runs.records import RunRecord


def test_records_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    undecodable = probe_record(classes=("\udcff", "a\nb"))
    for record in (run_record(), probe_record(), undecodable):
        record.write(tmp_path / "record.json")
        assert type(record).read(tmp_path / "record.json") == record


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(extra=1), "extra"),
        (lambda d: d.pop("rows"), "rows: is required"),
        (lambda d: d["rows"][0]["accuracy"].update(linear=101), "rows.0.accuracy.linear"),
        (lambda d: d.update(chosen=5), "name rows of the table"),
        (lambda d: d.update(chosen=-1), "name rows of the table"),
        (lambda d: d["details"].update(row=5), "name rows of the table"),
        (lambda d: d["classes"].append("c"), "one entry for each class"),
        (lambda d: d["details"]["confusion"][0].append(1), "one entry for each class"),
    ],
)
def test_a_damaged_record_is_one_line_that_names_the_fault(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    document = probe_record().to_dict()
    change(document)
    path = tmp_path / "probe.json"
    path.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=words) as caught:
        ProbeRecord.read(path)
    assert str(caught.value).startswith(f"{path} is damaged")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[3]", '{"format": 2', '{"format": NaN}', "[" * 100_000])
def test_what_is_no_record_is_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(CheckpointError, match="is damaged"):
        RunRecord.read(tmp_path / "run.json")

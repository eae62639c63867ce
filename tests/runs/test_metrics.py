"""``metrics.jsonl``: lines are added, trimmed and read back whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssltool.errors import CheckpointError, DiskFullError
from ssltool.runs import metrics

GOOD = b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": NaN}\n'


def test_lines_after_a_step_are_trimmed_and_a_cut_line_is_left_out(tmp_path: Path) -> None:
    metrics.trim(tmp_path, 0)
    for step in (2, 4, 6):
        metrics.append(tmp_path, {"step": step, "loss": 0.1})
    with (tmp_path / metrics.METRICS).open("a") as file:
        file.write('{"step": 8, "lo')
    assert [line["step"] for line in metrics.read(tmp_path)] == [2, 4, 6]
    metrics.trim(tmp_path, 4)
    assert [line["step"] for line in metrics.read(tmp_path)] == [2, 4]


def test_a_failed_trim_leaves_the_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics.append(tmp_path, {"step": 2})

    def killed(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        metrics.trim(tmp_path, 0)
    assert [path.name for path in tmp_path.iterdir()] == [metrics.METRICS]
    assert metrics.read(tmp_path) == [{"step": 2}]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    (tmp_path / metrics.METRICS).symlink_to("/dev/full")
    with pytest.raises(DiskFullError, match=r"no space left .*metrics\.jsonl"):
        metrics.append(tmp_path, {"step": 2})


def test_a_file_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / metrics.METRICS).mkdir()
    with pytest.raises(CheckpointError, match=r"cannot write .*metrics\.jsonl"):
        metrics.append(tmp_path, {"step": 2})


def test_lines_are_read_back(tmp_path: Path) -> None:
    assert metrics.read(tmp_path) == []
    metrics.append(tmp_path, {"step": 1, "loss": 0.5})
    metrics.append(tmp_path, {"step": 2, "loss": float("inf")})
    assert metrics.read(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": float("inf")}]
    metrics.trim(tmp_path, 1)
    assert metrics.read(tmp_path) == [{"step": 1, "loss": 0.5}]


@pytest.mark.parametrize("rest", [b"", b'{"step": 3, "lo', b"\0" * 100, b"\xff", b"{"])
def test_a_last_line_cut_off_by_a_kill_is_left_out(tmp_path: Path, rest: bytes) -> None:
    (tmp_path / metrics.METRICS).write_bytes(GOOD + rest)
    assert [line["step"] for line in metrics.read(tmp_path)] == [1, 2]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"3",
        b"\xff",
        b'{"loss": 1}',
        b'{"step": "1"}',
        b'{"step": -1}',
        b'{"step": Infinity}',
        b'{"step": true}',
        b'{"step": 1, "loss": null}',
        b'{"step": 1, "loss": [1]}',
        b"[" * 100_000,
        b'{"step": ' + b"9" * 5000 + b"}",
    ],
)
def test_another_damaged_line_is_named(tmp_path: Path, line: bytes) -> None:
    (tmp_path / metrics.METRICS).write_bytes(GOOD + line + b"\n" + GOOD)
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl is damaged, line 3") as caught:
        metrics.read(tmp_path)
    assert "\n" not in str(caught.value)

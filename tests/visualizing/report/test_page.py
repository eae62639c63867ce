"""The page on runs, read as text; what a browser makes of it is tested in
``test_report_browser.py``.
"""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made_runs import made_run, probed
from PIL import Image

from ssltool.cli import run as command
from ssltool.errors import UsageError
from ssltool.visualizing.report.report import read_page, write_report

EVIL = '<script>alert("1")</script><img src=x onerror=alert(2)>&'


class Tags(HTMLParser):
    """The elements of a page, their attributes and the data of its charts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def charts(text: str) -> list[dict[str, Any]]:
    head = '<script type="application/json" id="charts">'
    found: list[dict[str, Any]] = json.loads(text.partition(head)[2].partition("</script>")[0])
    return found


def written(tmp_path: Path, *folders: Path) -> tuple[str, dict[str, Any]]:
    result = write_report(folders, tmp_path / "page.html")
    return (tmp_path / "page.html").read_text(), result


def test_a_page_tells_everything_of_a_run(tmp_path: Path) -> None:
    text, result = written(tmp_path, probed(made_run(tmp_path / "one")))
    assert result["runs"] == [
        {
            "name": "one",
            "folder": str(tmp_path / "one"),
            "method": "jigsaw",
            "step": 40,
            "missing": [],
        }
    ]
    assert result["bytes"] == (tmp_path / "page.html").stat().st_size
    for words in (
        "finished, 40 steps",
        "16 images",
        "after step 20",
        "resnet10_w32",
        "30.5%",
        "2.11",
        "demo:16",
        "17.5",
    ):
        assert words in text
    drawn = {chart["title"]: chart for chart in charts(text)}
    assert drawn["accuracy, %"]["chance"] == [
        {"name": "chance 4.17", "y": pytest.approx(100 / 24), "color": None}
    ]
    assert drawn["accuracy, %"]["series"][0]["y"] == [10, 20, 30, 40]
    assert drawn["loss"]["series"][0]["x"] == [10, 20, 30, 40]
    assert drawn["answers in % of each class"]["z"] == [[75, 25], [0, 100]]
    stages = drawn["linear probe of each stage, accuracy in %"]
    assert [series["name"] for series in stages["series"]] == ["jigsaw", "random init"]
    assert stages["chance"] == [{"name": "pixels 10.0 %", "y": 10, "color": None}]


def test_a_page_asks_for_nothing_from_outside(tmp_path: Path) -> None:
    text, _ = written(tmp_path, made_run(tmp_path / "one"))
    for tag, attributes in Tags(text).found:
        for name in ("src", "href", "action", "srcset", "poster"):
            target = attributes.get(name)
            assert not target or target.startswith(("data:", "#")), (tag, target)


def test_several_runs_are_compared(tmp_path: Path) -> None:
    second = made_run(tmp_path / "b" / "run", steps=100, description="99 images")
    text, result = written(
        tmp_path, made_run(tmp_path / "a" / "run"), second, tmp_path / "a" / "run"
    )
    assert [run["name"] for run in result["runs"]] == [
        "a/run",
        "b/run",
    ]  # the same folder twice is one run
    assert "unfinished, step 40 of 100" in text
    assert "Options that differ" in text
    loss = next(chart for chart in charts(text) if chart["title"] == "loss")
    assert [series["name"] for series in loss["series"]] == ["a/run", "b/run"]
    assert loss["chance"] == [
        {"name": "chance 3.18", "y": 3.178, "color": None}
    ]  # one line for both


def test_nothing_of_a_run_is_taken_for_html(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "<b>run", name=EVIL, description=EVIL)
    document = json.loads((folder / "run.json").read_text())
    document["options"][EVIL] = EVIL
    document["environment"][EVIL] = EVIL
    (folder / "run.json").write_text(json.dumps(document))
    (folder / "skipped.txt").write_text(f"{EVIL}: {EVIL}\n")
    (folder / "figures" / "predictions.png").rename(
        folder / "figures" / "<img onerror=alert(3)>.png"
    )
    probe = {
        "rows": [{"features": EVIL, "stage": EVIL, "linear": 1.0}],
        "classes": [EVIL],
        "details": {"confusion": [[1]], "per_class": {EVIL: 1.0}},
        "health": {EVIL: {EVIL: EVIL}},
    }
    (folder / "probe.json").write_text(json.dumps(probe))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 50, "loss": 1.0, EVIL: 2.0, "</script>": 1.0}) + "\n")
    text, _ = written(tmp_path, folder)
    tags = Tags(text).found
    assert sum(tag == "script" for tag, _ in tags) == 4
    assert not [
        attributes for _, attributes in tags if any(name.startswith("on") for name in attributes)
    ]
    assert all(
        (attributes["src"] or "").startswith("data:") for tag, attributes in tags if tag == "img"
    )
    for chart in charts(text):  # plotly reads tags in names
        for series in chart.get("series", []):
            assert "<" not in series["name"]


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "figures", "probe.json"])
@pytest.mark.parametrize("how", ["away", "empty", "cut", "odd", "binary"])
def test_a_half_written_run_gives_a_page_that_says_so(tmp_path: Path, name: str, how: str) -> None:
    folder = probed(made_run(tmp_path / "one"))
    place = folder / name
    if place.is_dir():
        place = place / "predictions-0000040.png"
        if how == "away":
            for path in (folder / name).iterdir():
                path.unlink()
    if how == "away":
        place.unlink(missing_ok=True)
    else:
        data = place.read_bytes()
        place.write_bytes(
            {"empty": b"", "cut": data[: len(data) // 2], "odd": b"[3]", "binary": b"\xff\xfe\x00"}[
                how
            ]
        )
    text, result = written(tmp_path, folder)
    cut_line = name == "metrics.jsonl" and how == "cut"  # the lines before it still tell
    assert bool(result["runs"][0]["missing"]) != cut_line
    for line in result["runs"][0]["missing"]:
        assert line.split()[0] in text
    assert "</html>" in text


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "one")
    (folder / "metrics.jsonl").write_text(
        '{"step": 1, "loss": NaN, "lr": "x"}\n{"step": 2, "loss": 1.5}\n7\n'
    )
    assert read_page(folder, "one").lines == [{"step": 1}, {"step": 2, "loss": 1.5}]


def test_images_over_time_are_spread_and_keep_the_ends(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "one")
    for step in range(60, 1000, 20):
        Image.new("RGB", (9, 9)).save(folder / "figures" / f"predictions-{step:07d}.png")
    found = read_page(folder, "one", frames=5)
    assert [frame.step for frame in found.predictions] == [20, 260, 500, 740, 980]
    assert found.left_out == 44


def test_what_is_no_run_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_run(tmp_path / "runs" / "one")
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        (["missing"], "does not exist"),
        (["empty"], "holds nothing of a run"),
        (["runs"], "has 1 in it; type"),
    ):
        assert command(["report", str(tmp_path / arguments[0])]) == 2
        shown = capsys.readouterr()
        assert words in shown.err
        assert shown.err.count("\n") == 1
    assert command(["report", str(tmp_path / "runs" / "one"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(
        tmp_path / "runs" / "one" / "report.html"
    )


def test_without_its_packages_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(UsageError, match=r"ssltool\[report\]"):
        write_report([made_run(tmp_path / "one")])

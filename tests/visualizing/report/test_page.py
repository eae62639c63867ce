"""The report as text; what a browser makes of it is tested in ``test_browser.py``."""

from __future__ import annotations

import html
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from made_runs import made_run, probe_record, probed, run_record
from PIL import Image

from ssltool.cli import run as command
from ssltool.errors import UsageError
from ssltool.runs.config import RunConfig
from ssltool.runs.probe_record import Details
from ssltool.runs.resolve import resolve
from ssltool.visualizing.report.headline import headline, headlines
from ssltool.visualizing.report.options import list_options
from ssltool.visualizing.report.reading import read_run_files
from ssltool.visualizing.report.report import Report, write_report

EVIL = '<script>alert("1")</script><img src=x onerror=alert(2)>&'


class Tags(HTMLParser):
    """The elements of a page and their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


class Tables(HTMLParser):
    """The cells of every table, row by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.cell: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td") and self.cell is not None:
            self.tables[-1][-1].append(" ".join("".join(self.cell).split()))
            self.cell = None

    def handle_data(self, data: str) -> None:
        if self.cell is not None:
            self.cell.append(data)


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a page, the head of each first."""
    return Tables(text).tables


def figures(text: str) -> list[dict[str, Any]]:
    """The plotly figures of a page, by the order of their elements."""
    head = '<script type="application/json" id="charts">'
    document = json.loads(text.partition(head)[2].partition("</script>")[0])
    ids = [a["id"] for _, a in Tags(text).tags if (a.get("class") or "").startswith("plot")]
    assert sorted(ids) == sorted(figure["id"] for figure in document["figures"])
    by_id: dict[str, dict[str, Any]] = {figure["id"]: figure for figure in document["figures"]}
    return list(by_id.values())


def written(tmp_path: Path, *folders: Path) -> tuple[str, Report]:
    result = write_report(folders, tmp_path / "page.html")
    return (tmp_path / "page.html").read_text(), result


def test_a_page_tells_everything_of_a_run(tmp_path: Path) -> None:
    text, result = written(tmp_path, probed(made_run(tmp_path / "one")))
    (run,) = result.runs
    assert (run.name, run.folder, run.method) == ("one", tmp_path / "one", "jigsaw")
    assert run.step == 40
    assert run.missing == (f"not audited yet; type ssltool audit --weights {tmp_path / 'one'}",)
    assert result.bytes == (tmp_path / "page.html").stat().st_size
    for words in (
        "finished, 40 steps",
        "16 images",
        "after step 20",
        "resnet10_w32",
        "30.5 ± 4.5",
        "12.2",
        "40 steps of 4 images, 10 epochs",
        "chance level 4.2%",
        "2.11",
        "demo:16",
        "17.5",
        "8 test images, 2 classes, chance level 50 %",
        "18 training and 8 test images",
    ):
        assert words in text
    loss, accuracy, lr, speed, stages, labels, confusion, classes = figures(text)
    assert loss["data"][0]["x"] == [10, 20, 30, 40]
    assert loss["data"][0]["y"] == pytest.approx([3.1, 3, 2.9, 2.8])
    assert accuracy["data"][0]["y"] == [10, 20, 30, 40]
    assert accuracy["layout"]["shapes"][0]["y0"] == pytest.approx(100 / 24)
    assert accuracy["layout"]["shapes"][0]["name"] == "chance level 4.17"
    assert (lr["data"][0]["y"][0], speed["data"][0]["y"][0]) == (0.001, 50)
    assert [trace["name"] for trace in stages["data"][:2]] == ["jigsaw", "random init"]
    assert stages["layout"]["shapes"][0]["name"] == "raw pixels 10"
    assert labels["data"][0]["x"] == [2, 18]
    assert confusion["data"][0]["z"] == [[75, 25], [0, 100]]
    assert (classes["data"][0]["y"], classes["data"][0]["x"]) == (["a"], [75])


@pytest.mark.parametrize(("count", "drawn"), [(200, True), (201, False)])
def test_only_a_legible_confusion_matrix_is_drawn(tmp_path: Path, count: int, drawn: bool) -> None:
    details = Details(row=0, per_class=(0.0,) * count, confusion=((1,) * count,) * count)
    names = tuple(f"class {i}" for i in range(count))
    record = probe_record().model_copy(update={"classes": names, "details": details})
    text, _ = written(tmp_path, probed(made_run(tmp_path / "one"), record))
    assert any(figure["data"][0]["type"] == "heatmap" for figure in figures(text)) == drawn
    assert "Linear probe of each stage: test accuracy, %" in text


def test_a_page_asks_for_nothing_from_outside(tmp_path: Path) -> None:
    text, _ = written(tmp_path, made_run(tmp_path / "one"))
    for tag, attributes in Tags(text).tags:
        for name in ("src", "href", "action", "srcset", "poster"):
            target = attributes.get(name)
            assert not target or target.startswith(("data:", "#")), (tag, target)


def test_several_runs_are_compared(tmp_path: Path) -> None:
    first = made_run(tmp_path / "a" / "run")
    second = made_run(tmp_path / "b" / "run", run_record(steps=100, description="99 images"))
    text, result = written(tmp_path, first, second, first)
    assert [run.name for run in result.runs] == ["a/run", "b/run"]  # a folder twice is one run
    assert "unfinished, step 40 of 100" in text
    assert "2 runs of jigsaw" in text
    assert "Options that differ" in text
    loss = figures(text)[0]
    assert [trace["name"] for trace in loss["data"][:2]] == ["a/run", "b/run"]
    assert len(loss["layout"]["shapes"]) == 1  # one chance level for both


@pytest.mark.slow
def test_runs_of_two_methods_share_no_axis_and_no_table_of_metrics(tmp_path: Path) -> None:
    folders = [
        made_run(tmp_path / name, run_record(method=method, options={"lr": lr}))
        for name, method, lr in (("a", "jigsaw", 0.1), ("b", "npid", 0.2), ("c", "jigsaw", 0.3))
    ]
    text, _ = written(tmp_path, *folders)
    assert "3 runs of 2 methods" in text
    losses = [
        [trace["name"] for trace in figure["data"] if "name" in trace]
        for figure in figures(text)
        if figure["data"][0]["y"][0] == pytest.approx(3.1)
    ]
    assert losses == [["a", "c"], ["b"]]
    rows = [line for table in tables(text) if table[0][0] == "option" for line in table]
    assert rows.count(["option", "a", "c"]) == 1  # only between runs of one method
    assert ["--lr", "0.1", "0.3"] in rows


@pytest.mark.slow
def test_no_two_columns_of_a_table_have_one_name(tmp_path: Path) -> None:
    runs = [probed(made_run(tmp_path / name)) for name in "ab"]
    for text in (written(tmp_path, *runs)[0], written(tmp_path, runs[0])[0]):
        heads = [table[0] for table in tables(text)]
        assert len(heads) > 3
        assert all(len(set(head)) == len(head) for head in heads), heads


def test_options_are_compared_with_the_nearest_preset(tmp_path: Path) -> None:
    config = RunConfig.merged("jigsaw", {"steps": 40, "lr": 0.5}, "small")
    data = replace(run_record().data, count=1000, image_size=48)
    options = resolve(config, data).options()
    record = run_record().model_copy(update={"options": options, "data": data})
    listed = list_options(record)
    assert listed.changed is not None
    assert listed.changed.title == "Options that differ from preset small"
    changed = {str(row[0]): row[1:] for row in listed.changed.rows}
    assert changed.keys() == {"--steps", "--lr"}  # not the warm-up, which follows from the steps
    assert changed["--lr"] == ["0.5", "0.001"]
    assert {"--warmup", "--grid", "--data"} <= listed.rest.keys()
    unknown = list_options(record.model_copy(update={"method": "not-installed"}))
    assert unknown.changed is None
    assert unknown.rest["--lr"] == "0.5"


def test_the_headline_has_the_chosen_stage_beside_each_baseline(tmp_path: Path) -> None:
    record = probe_record()
    chosen = record.rows[3].model_copy(update={"chosen": True})  # of the random init: layer1
    record = record.model_copy(update={"rows": (*record.rows[:3], chosen, record.rows[4])})
    result = headline(record)
    assert result is not None
    assert [(bar.label, bar.stage, bar.percent, bar.baseline) for bar in result.bars] == [
        ("jigsaw", "pooled *", 30.5, False),
        ("random init", "layer1 *", 11.0, True),
        ("random init", "pooled", 12.25, True),
        ("raw pixels", "", 10.0, True),
    ]
    assert result.bars[0].error == 4.5
    other = record.model_copy(update={"rows": (record.rows[0], *record.rows[4:])})
    (both,) = headlines({"one": record, "two": other})
    assert [bar.label for bar in both.bars] == ["one", "two", "random init", "raw pixels"]
    elsewhere = other.protocol.model_copy(update={"data": ("x", "y")})
    other = other.model_copy(update={"protocol": elsewhere})
    assert len(headlines({"one": record, "two": other})) == 2  # other images: not comparable
    for field, value in {"knn_space": "whitened", "recalibrate": False, "grid_dim": 512}.items():
        otherwise = record.protocol.model_copy(update={field: value})
        other = record.model_copy(update={"protocol": otherwise})
        assert len(headlines({"one": record, "two": other})) == 2


def test_each_missing_part_names_the_command_that_makes_it(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "a run")
    for path in (folder / "figures").iterdir():
        path.unlink()
    text, result = written(tmp_path, folder)
    quoted = f"'{folder}'"
    for typed in (
        f"ssltool probe --weights {quoted} --data labeled/",
        f"ssltool audit --weights {quoted}",
        f"ssltool visualize predictions --weights {quoted} --to ",
        "ssltool visualize task jigsaw --data demo:16 --seed 0 --to ",
    ):
        assert any(f"type {typed}" in line for line in result.runs[0].missing), typed
        assert f"<code>{html.escape(typed)}".replace("&#x27;", "&#39;") in text


@pytest.mark.slow
def test_headings_follow_one_another_without_a_gap(tmp_path: Path) -> None:
    runs = [probed(made_run(tmp_path / name)) for name in "ab"]
    for text in (written(tmp_path, *runs)[0], written(tmp_path, runs[0])[0]):
        levels = [int(tag[1]) for tag, _ in Tags(text).tags if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels)), levels


def test_nothing_of_a_run_is_taken_for_html(tmp_path: Path) -> None:
    record = run_record(
        method=EVIL,
        description=EVIL,
        options={EVIL: EVIL, "many": [EVIL]},
        environment={EVIL: EVIL},
    )
    folder = probed(
        made_run(tmp_path / "<b>run", record), probe_record(method=EVIL, classes=(EVIL, "b"))
    )
    (folder / "skipped.txt").write_text(f"{EVIL}: {EVIL}\n")
    (folder / "figures" / "predictions.png").rename(
        folder / "figures" / "<img onerror=alert(3)>.png"
    )
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 50, "loss": 1.0, EVIL: 2.0, "</script>": 1.0}) + "\n")
    text, result = written(tmp_path, folder)
    assert [line.split()[0] for line in result.runs[0].missing] == ["not"]  # audited yet
    tags = Tags(text).tags
    assert sum(tag == "script" for tag, _ in tags) == 4
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    images = [attributes["src"] or "" for tag, attributes in tags if tag == "img"]
    assert all(source.startswith("data:") for source in images)
    for figure in figures(text):  # plotly reads tags in names
        for trace in figure["data"]:
            assert "<" not in trace.get("name", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "figures", "probe.json"])
@pytest.mark.parametrize("how", ["away", "empty", "cut", "odd", "binary", "other format"])
def test_a_half_written_run_gives_a_page_that_says_so(tmp_path: Path, name: str, how: str) -> None:
    folder = probed(made_run(tmp_path / "one"))
    path = folder / name
    if path.is_dir():
        path = path / "predictions-0000040.png"
        for other in (folder / name).iterdir() if how == "away" else ():
            other.unlink()
    path.unlink(missing_ok=True) if how == "away" else path.write_bytes(
        {
            "empty": b"",
            "cut": path.read_bytes()[: path.stat().st_size // 2],
            "odd": b"[3]",
            "binary": b"\xff\xfe\x00",
            "other format": b'{"format": 1, "rows": [[[]]], "method": 3}',
        }[how]
    )
    text, result = written(tmp_path, folder)
    cut_line = name == "metrics.jsonl" and how == "cut"  # the lines before it remain
    missing = [line for line in result.runs[0].missing if "audit" not in line]
    assert bool(missing) != cut_line
    for line in missing:
        assert line.split()[1] in text
    assert "</html>" in text


def test_values_that_are_not_finite_numbers_are_left_out(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "one")
    (folder / "metrics.jsonl").write_text(
        '{"step": 1, "loss": NaN}\n{"step": 2, "loss": 1.5}\n{"step": 3, "lo'
    )
    files = read_run_files(folder, "one", 16)
    assert files.lines == [{"step": 1}, {"step": 2, "loss": 1.5}]
    assert files.step == 2
    assert files.seconds is None
    assert read_run_files(made_run(tmp_path / "two"), "two", 16).seconds == pytest.approx(3.2)


def test_predictions_over_time_are_spread_and_keep_the_ends(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "one")
    for step in range(60, 1000, 20):
        Image.new("RGB", (9, 9)).save(folder / "figures" / f"predictions-{step:07d}.png")
    shown = read_run_files(folder, "one", 5).figures
    steps = (20, 260, 500, 740, 980)
    assert [frame.title for frame in shown.predictions] == [f"after step {s}" for s in steps]
    assert shown.left_out == 44
    assert [frame.title for frame in shown.others] == ["predictions"]


def test_what_is_no_run_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_run(tmp_path / "runs" / "one")
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        (["missing"], "there is no run at"),
        (["empty"], "holds nothing of a run"),
        (["runs"], "has 1 in it; type"),
    ):
        assert command(["report", str(tmp_path / arguments[0])]) == 2
        shown = capsys.readouterr()
        assert words in shown.err
        assert shown.err.count("\n") == 1
    assert command(["report", str(tmp_path / "runs" / "one"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["path"] == str(tmp_path / "runs" / "one" / "report.html")


@pytest.mark.parametrize("package", ["plotly.offline", "plotly.graph_objects", "jinja2"])
def test_without_its_packages_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=r"ssltool\[report\]"):
        write_report([made_run(tmp_path / "one")])

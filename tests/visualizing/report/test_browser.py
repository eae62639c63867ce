"""The page on runs in a real Chromium: it loads alone, moves, sorts, zooms, and fits a phone and a
dark room.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_runs import made_run, probed, run_record

from ssltool.visualizing.report.report import write_report

pytestmark = pytest.mark.slow

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
_PATIENCE = 180_000  # ms, of a machine that has other work
PHONE = {"width": 390, "height": 844}
LAPTOP = {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here; Debian's package is called chromium")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield found
        found.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    path = "/a/very/long/path/without/any/space/" * 8
    first = probed(made_run(folder / "one", run_record(options={"a_long_option": path})))
    record = run_record(steps=100, method="<script>alert(1)</script>", description="x" * 200)
    second = made_run(folder / ("two-" * 20), record)
    write_report([first, second], folder / "page.html")
    return folder / "page.html"


class Opened:
    """A page with its messages and requests since it was opened."""

    def __init__(self, browser: Any, file: Path, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.context.set_default_timeout(_PATIENCE)
        self.page = self.context.new_page()
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("dialog", lambda dialog: self.messages.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())
        self.page.evaluate(
            "for (const part of document.querySelectorAll('details')) part.open = true"
        )
        for _ in range(400):  # charts are drawn as they come near the window
            missing = self.page.evaluate(
                """() => { const left =
                [...document.querySelectorAll('.plot:not(.js-plotly-plot)')];
                           if (left.length) left[0].scrollIntoView(); return left.length; }"""
            )
            if not missing:
                break
            self.page.wait_for_timeout(50)
        assert not missing, "some charts were never drawn"


def until(page: Any, expression: str) -> None:
    """Wait until an expression is true; playwright's own waiting evaluates strings, which the page
    forbids.
    """
    for _ in range(1000):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"never true: {expression}")


@pytest.fixture
def opened(browser: Any, page_file: Path) -> Iterator[Any]:
    made: list[Opened] = []

    def open_page(**context: Any) -> Opened:
        made.append(Opened(browser, page_file, **context))
        return made[-1]

    yield open_page
    for one in made:
        one.context.close()


@pytest.mark.ci
def test_it_loads_without_an_error_or_a_request(opened: Any, page_file: Path) -> None:
    one = opened()
    assert one.messages == []
    assert [url for url in one.requests if not url.startswith(("data:", "blob:"))] == [
        page_file.as_uri()
    ]
    drawn = one.page.evaluate("document.querySelectorAll('.plot .main-svg').length")
    assert drawn >= one.page.evaluate("document.querySelectorAll('.plot').length") > 5
    shown = one.page.evaluate(
        "[...document.images].filter((i) => !i.hidden && i.naturalWidth === 0).length"
    )
    assert shown == 0


def test_the_slider_moves_through_the_images(opened: Any) -> None:
    page = opened().page
    part = page.locator(".over-time").first
    assert part.locator("output").inner_text() == "after step 40"
    part.locator("input").focus()
    page.keyboard.press("ArrowLeft")
    assert part.locator("output").inner_text() == "after step 20"
    assert part.locator("input").get_attribute("aria-valuetext") == "after step 20"
    assert part.locator("img:visible").get_attribute("data-title") == "after step 20"
    assert part.locator("img:visible").count() == 1
    part.locator(".play").press("Enter")
    until(page, "document.querySelector('.over-time output').textContent === 'after step 40'")
    until(page, "document.querySelector('.over-time .play').textContent === 'Play'")


def test_tables_sort_by_numbers_and_words(opened: Any) -> None:
    page = opened().page
    table = page.locator("table", has=page.get_by_role("button", name="linear", exact=True)).first

    def column(number: int) -> list[str]:
        texts: list[str] = table.locator(f"tbody td:nth-child({number})").all_inner_texts()
        return texts

    linear = table.get_by_role("button", name="linear", exact=True)
    linear.click()
    assert column(4) == ["9.5", "10.0", "11.0", "12.2", "30.5 ± 4.5"]
    linear.press("Enter")
    assert column(4) == ["30.5 ± 4.5", "12.2", "11.0", "10.0", "9.5"]
    assert table.locator("th").nth(3).get_attribute("aria-sort") == "descending"
    table.get_by_role("button", name="kNN, k = 20", exact=True).click()
    assert column(5) == ["28.0", "100.0", "", "", ""]  # what is empty comes last
    table.get_by_role("button", name="features").click()
    assert column(1) == sorted(column(1))
    assert table.locator("th[aria-sort]").count() == 1


def test_a_chart_zooms_by_keyboard_and_says_its_numbers(opened: Any) -> None:
    page = opened().page
    place = page.locator(".plot").first
    place.scroll_into_view_if_needed()
    place.focus()
    before = page.evaluate("document.querySelector('.plot').layout.xaxis.range")
    page.keyboard.press("+")
    width = "document.querySelector('.plot').layout.xaxis.range.reduce((low, high) => high - low)"
    until(page, f"{width} < {0.6 * (before[1] - before[0])}")
    page.keyboard.press("0")
    until(page, "document.querySelector('.plot').layout.xaxis.autorange === true")
    place.hover(position={"x": 150, "y": 90})
    until(
        page,
        "document.querySelector('.plot').querySelector('.hoverlayer').textContent.includes('step')",
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(opened: Any, scheme: str) -> None:
    one = opened(
        viewport=PHONE, color_scheme=scheme, has_touch=True, is_mobile=True, device_scale_factor=2
    )
    assert one.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert one.page.evaluate("innerWidth") == PHONE["width"]  # not zoomed out to fit something wide
    wide = one.page.evaluate(
        """[...document.querySelectorAll('main *')]
             .filter((e) => !e.closest('.scroll, .plot, .zoom'))
             .filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
             .map((e) => e.tagName + '.' + e.className)"""
    )
    assert wide == []
    one.page.locator(".zoom").first.click()
    assert one.page.locator(".zoom").first.get_attribute("aria-pressed") == "true"
    assert one.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


# Texts whose contrast with what is behind them is below WCAG 2's level AA.
FAINT = """() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const shade = (color) => { const [r, g, b] = parts(color).map((part) => {
      const c = part / 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (e) => { for (; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if ((parts(color)[3] ?? 1) > 0.5) return color; }
    return "rgb(255, 255, 255)"; };
  const faint = [], seen = { html: 0, svg: 0 };
  for (const e of document.querySelectorAll("body *:not(script, style)")) {
    const written = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!written || !e.checkVisibility() || e.closest(".modebar, defs")) continue;
    const style = getComputedStyle(e), svg = e.closest("svg");
    seen[svg ? "svg" : "html"] += 1;
    const [a, b] = [shade(svg ? style.fill : style.color), shade(behind(e))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faint.push([e.tagName, e.textContent.slice(0, 30), contrast]);
  }
  return [seen, faint]; }"""


@pytest.mark.ci
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_words_have_enough_contrast(opened: Any, scheme: str) -> None:
    page = opened(color_scheme=scheme).page
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    seen, faint = page.evaluate(FAINT)
    assert min(seen["html"], seen["svg"]) > 50
    assert faint == []


@pytest.mark.parametrize("viewport", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_the_first_screen_has_run_probe_and_predictions(
    browser: Any, tmp_path: Path, viewport: dict[str, int]
) -> None:
    write_report([probed(made_run(tmp_path / "one"))], tmp_path / "page.html")
    context = browser.new_context(viewport=viewport)
    context.set_default_timeout(_PATIENCE)
    page = context.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    for selector in ("h1", ".first .facts", ".headline", ".headline svg", ".preview img"):
        box = page.locator(selector).first.bounding_box()
        assert 0 <= box["y"] < viewport["height"] - 60, (selector, box)
    value, track = (
        page.locator(f".headline tr:first-child .{part}").first.bounding_box()["width"]
        for part in ("value", "track")
    )
    assert value / track == pytest.approx(0.305, abs=0.01)
    context.close()


PRINTED = """() => {
  const box = (e) => e.getBoundingClientRect();
  const wide = [...document.querySelectorAll("main *")]
    .filter((e) => !e.closest(".js-plotly-plot *"))
    .filter((e) => e.checkVisibility() && box(e).right > innerWidth + 1).map((e) => e.className);
  const shut = [...document.querySelectorAll("details:not([open])")].length;
  const frames = [...document.querySelectorAll(".frame")]
    .filter((e) => !e.checkVisibility()).length;
  const cut = [...document.querySelectorAll(".plot .main-svg")]
    .filter((e) => box(e).right > box(e.closest(".chart")).right + 1).length;
  const hidden = [...document.querySelectorAll("h1, h2, h3")].filter((e) => !e.checkVisibility())
    .map((e) => e.textContent);
  return { wide, shut, frames, cut, hidden }; }"""


def test_paper_shows_every_part_and_cuts_no_figure(opened: Any) -> None:
    one = opened(viewport={"width": 718, "height": 1000})  # A4 within its margins
    page = one.page
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = false")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    found = {"wide": [], "shut": 0, "frames": 0, "cut": 0, "hidden": []}
    assert page.evaluate(PRINTED) == found
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.querySelectorAll('details[open]').length") == 0
    assert page.pdf(format="A4").startswith(b"%PDF")
    assert one.messages == []


def test_charts_follow_a_change_to_dark_and_paper_is_light(opened: Any) -> None:
    page = opened().page
    ink = "document.querySelector('.plot .xtick text').style.fill"
    light = page.evaluate(ink)
    page.emulate_media(color_scheme="dark")
    until(page, f"{ink} !== {json.dumps(light)}")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    until(page, f"{ink} === {json.dumps(light)}")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(color_scheme="dark", media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()


def test_everything_is_reached_by_the_tab_key(opened: Any) -> None:
    page = opened().page
    page.evaluate("scrollTo(0, 0); document.activeElement.blur()")
    reached = set()
    for _ in range(400):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                """(() => { const e = document.activeElement;
                    return e.matches('.plot') ? 'plot' : e.matches('.scroll') ? 'scroll' :
                    e.matches('.zoom') ? 'zoom' : e.closest('th') ? 'sort' : e.matches('.play') ?
                    'play' : e.tagName; })()"""
            )
        )
        if {"plot", "scroll", "zoom", "sort", "play", "INPUT", "SUMMARY", "A"} <= reached:
            return
    raise AssertionError(f"only {reached}")


@pytest.mark.ci
def test_numbers_stay_readable_without_javascript(browser: Any, page_file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.get_by_text("Charts and sorting need JavaScript").is_visible()
    assert "after step 40" in page.content()
    context.close()

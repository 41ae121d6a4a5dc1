"""The report as a person reads it: a real run, the real page, a real browser.

The screenshots land in build/screenshots, or in the folder that RECOV_GRAPH_SCREENSHOTS names:
`make screenshots` makes those of the README.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from recov_graph.store import TraceStore
from tests.stored_runs import StoredRun

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra 'test'")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra 'test'")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,  # two minutes
    pytest.mark.skipif(
        CHROMIUM is None, reason="no chromium on the PATH: apt-get install chromium"
    ),
]

ROOT = Path(__file__).parents[1]
SCREENSHOTS = Path(os.environ.get("RECOV_GRAPH_SCREENSHOTS", ROOT / "build" / "screenshots"))
COMMAND = Path(sys.executable).with_name("recov-graph")
# Nothing but the page is asked for, not even by the browser itself.
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PAPER = "getComputedStyle(document.documentElement).backgroundColor"
LOOKS = [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)]


@dataclass
class Opened:
    """A page with all that it said and asked for."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def draw_all(self) -> None:
        """Charts are drawn where they come near: a window as high as the page shows all."""
        width = self.page.viewport_size["width"]
        height = self.page.evaluate("document.documentElement.scrollHeight")
        self.page.set_viewport_size({"width": width, "height": height})
        self.wait_for("[...document.querySelectorAll('.chart')].every((one) => one.firstChild)")

    def wait_for(self, condition: str) -> None:
        """Playwright's own way of waiting evaluates a string, which the page does not let it."""
        for _ in range(100):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(f"after 10 s it is not so that {condition}")

    def point_at_first(self) -> Any:
        """The tooltip of the first point of the failure map."""
        tip = self.page.locator("#tip")
        for _ in range(20):  # a chart may be drawn anew while the page settles
            self.page.mouse.move(1, 1)
            self.page.locator(".pair .chart").first.locator(".mark-symbol path").first.hover(
                force=True
            )
            if tip.is_visible():
                return tip
            self.page.wait_for_timeout(100)
        raise AssertionError("no tooltip appears")

    def count(self, selector: str) -> int:
        return int(self.page.locator(selector).count())


def reported(folder: Path, *options: str) -> Path:
    """The page that the command makes of the folder's store."""
    out = folder / "report.html"
    subprocess.run(
        [COMMAND, "report", "--db", folder / "traces.db", "--out", out, *options],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return out


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the whole demo, as the README's commands make it."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    folder = tmp_path_factory.mktemp("demo")
    subprocess.run(
        [COMMAND, "demo", "--db", folder / "traces.db"],
        check=True,
        capture_output=True,
        timeout=300,
    )
    return reported(folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


Open = Callable[..., Opened]


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens a page in a window of its own."""
    contexts = []

    def opening(
        path: Path, scheme: str = "light", width: int = 1280, height: int = 900, **options: Any
    ) -> Opened:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, **options
        )
        contexts.append(context)
        opened = Opened(context.new_page())
        opened.page.on("console", lambda message: opened.said.append(message.text))
        opened.page.on("pageerror", lambda error: opened.said.append(str(error)))
        opened.page.on("request", lambda request: opened.asked.append(request.url))
        opened.page.goto(path.as_uri())
        return opened

    yield opening
    for context in contexts:
        context.close()


def assert_calm(opened: Opened, path: Path) -> None:
    """Nothing was complained about, nothing but the page was asked for."""
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith("data:")] == [path.as_uri()]


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_the_page_shows_all_its_charts_without_a_word_or_a_request(
    demo: Path, open_page: Open, scheme: str, width: int
) -> None:
    opened = open_page(demo, scheme, width)
    opened.draw_all()
    opened.page.screenshot(path=SCREENSHOTS / f"whole-{scheme}-{width}.png", full_page=True)
    assert opened.count(".chart") >= 8
    assert opened.count(".chart svg") == opened.count(".chart")
    for chart in opened.page.locator(".chart svg").all():
        assert chart.locator("path, circle, line, rect").count() > 3
    wide = opened.page.evaluate("document.documentElement.scrollWidth")
    assert wide == width, "the page scrolls sideways"
    assert_calm(opened, demo)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_of_the_readme_can_be_made(demo: Path, open_page: Open, scheme: str) -> None:
    opened = open_page(demo, scheme, 1180, 1300)
    opened.page.wait_for_selector(".pair .chart svg")
    opened.page.screenshot(path=SCREENSHOTS / f"report-{scheme}.png")
    assert 30_000 < (SCREENSHOTS / f"report-{scheme}.png").stat().st_size < 400_000


def test_the_numbers_are_those_that_the_demo_printed(demo: Path, open_page: Open) -> None:
    opened = open_page(demo)
    tiles = [" ".join(tile.split()) for tile in opened.page.locator(".tile").all_inner_texts()]
    assert [re.findall(r"[\d,]+", tile)[0] for tile in tiles] == [
        "84",
        "36",
        "35",
        "38,749",
        "34,733",
    ]
    assert "95%: 33% to 54%" in tiles[1]
    assert "84 of 84 failures shown" in opened.page.locator(".shown").inner_text()


def test_a_point_tells_what_it_is_when_pointed_at(demo: Path, open_page: Open) -> None:
    opened = open_page(demo)
    opened.page.wait_for_selector(".pair .chart svg")
    tip = opened.point_at_first()
    said = tip.inner_text()
    for word in ("task", "route", "outcome", "spread", "concentration", "logit dispersion"):
        assert word in said
    opened.page.keyboard.press("Escape")
    tip.wait_for(state="hidden")
    assert_calm(opened, demo)


def test_filters_narrow_the_map_and_the_cases_together(demo: Path, open_page: Open) -> None:
    opened = open_page(demo)
    page = opened.page
    page.wait_for_selector(".pair .chart svg")
    page.select_option("select[name=task]", "product")
    shown = int(re.match(r"\d+", page.locator(".shown").inner_text())[0])
    assert 0 < shown < 84
    for chart in page.locator(".pair .chart").all():
        assert chart.locator(".mark-symbol path").count() == shown
    visible = page.locator("details.case:visible .key").all_inner_texts()
    assert visible
    assert all(key.startswith("product") for key in visible)
    page.select_option("select[name=outcome]", "rescued")
    fewer = int(re.match(r"\d+", page.locator(".shown").inner_text())[0])
    assert fewer < shown
    page.get_by_role("button", name="Show all").click()
    opened.wait_for("document.querySelector('.shown').textContent.startsWith('84 of 84')")
    page.locator(".picks button").nth(1).click()
    assert 0 < opened.count("details.case:visible") < opened.count("details.case")
    assert_calm(opened, demo)


@pytest.mark.parametrize(("scheme", "width"), LOOKS[:3])
def test_a_case_opens_down_to_one_token(
    demo: Path, open_page: Open, scheme: str, width: int
) -> None:
    opened = open_page(demo, scheme, width)
    page = opened.page
    case = page.locator("details.case").first
    case.locator("summary").first.click()
    strips = case.locator(".strip")
    strips.first.wait_for()
    assert strips.count() == 4
    for strip in strips.all():
        assert strip.locator(".tok").count() > 5
        assert strip.locator(".tok.junction").count() == 1
        junction = strip.locator(".flag").first.inner_text()
        assert "junction" in junction
    strip, read = strips.first, case.locator(".read").first
    strip.locator(".tok").nth(2).hover()
    assert read.inner_text().startswith("Token 2 ")  # counted from 0, as in the store
    strip.focus()
    page.keyboard.press("End")
    last = strip.locator(".tok").count() - 1
    assert read.inner_text().startswith(f"Token {last}")
    page.keyboard.press("ArrowLeft")
    assert "J " in read.inner_text()
    assert "coverage" in read.inner_text()
    case.screenshot(path=SCREENSHOTS / f"case-{scheme}-{width}.png")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert_calm(opened, demo)


def test_both_continuations_of_a_repair_stand_side_by_side(demo: Path, open_page: Open) -> None:
    opened = open_page(demo)
    for case in opened.page.locator("details.case").all():
        case.locator("summary").first.click()
    repairs = opened.page.locator(".repair-item")
    repairs.first.wait_for()
    sides = [item.locator(".side").count() for item in repairs.all()]
    assert 1 in sides, "a fresh start stands alone"
    assert max(sides) >= 2, "a repair stands beside what it repaired"
    assert opened.count(".flag.repair") > 0
    assert_calm(opened, demo)


def test_a_point_opens_its_case(demo: Path, open_page: Open) -> None:
    opened = open_page(demo, height=1600)
    page = opened.page
    page.wait_for_selector(".pair .chart svg")
    box = page.evaluate(
        """() => {
          const marks = [...document.querySelectorAll('.pair .chart .mark-symbol path')];
          const sizes = marks.map((one) => one.getBoundingClientRect());
          const largest = sizes.reduce((a, b) => (b.width > a.width ? b : a));
          return [largest.x + largest.width / 2, largest.y + largest.height / 2];
        }"""
    )
    page.mouse.click(*box)
    page.wait_for_selector("details.case[open]")
    assert opened.count("details.case[open]") == 1


def test_everything_can_be_done_by_keyboard(demo: Path, open_page: Open) -> None:
    opened = open_page(demo)
    page = opened.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    reached: list[str] = []
    for _ in range(200):
        page.keyboard.press("Tab")
        here = page.evaluate(
            """() => {
              const one = document.activeElement;
              const style = getComputedStyle(one);
              const seen = style.outlineStyle !== 'none' || style.boxShadow !== 'none';
              return [one.tagName.toLowerCase(), one.name || one.textContent.trim().slice(0, 20),
                seen];
            }"""
        )
        if here[0] == "body":
            break
        assert here[2], f"{here} does not show that it has the focus"
        reached.append(here[0])
    assert reached.count("select") >= 3
    assert reached.count("button") >= 6
    assert reached.count("summary") >= opened.count("details.case") + 5
    case = page.locator("details.case summary").first
    case.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("details.case[open] .strip")
    assert_calm(opened, demo)


def test_colours_can_be_chosen(demo: Path, open_page: Open) -> None:
    opened = open_page(demo, "dark", height=1600)
    page = opened.page
    page.wait_for_selector(".chart svg")

    def paper() -> str:
        return str(page.evaluate(PAPER))

    def ink() -> str:
        return str(page.evaluate("document.querySelector('.chart svg text').getAttribute('fill')"))

    dark, dark_ink = paper(), ink()
    page.get_by_role("button", name="Light").click()
    light, light_ink = paper(), ink()
    assert dark != light
    assert dark_ink != light_ink
    page.emulate_media(color_scheme="light")
    page.get_by_role("button", name="Auto").click()
    assert paper() == light


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)`` or ``#rrggbb`` by WCAG."""
    if colour.startswith("#"):
        channels = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    else:
        channels = [float(x) for x in re.findall(r"[\d.]+", colour)[:3]]
    linear = [
        c / 255 / 12.92 if c / 255 <= 0.03928 else ((c / 255 + 0.055) / 1.055) ** 2.4
        for c in channels
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_what_is_behind_them(demo: Path, open_page: Open, scheme: str) -> None:
    opened = open_page(demo, scheme)
    opened.draw_all()
    page = opened.page
    page.locator("details.case summary").first.click()
    page.wait_for_selector(".strip .tok")
    paper = page.evaluate(PAPER)
    fills = page.evaluate(
        """() => [...new Set([...document.querySelectorAll('.chart svg text')]
             .filter((one) => one.textContent.trim())
             .map((one) => one.getAttribute('fill')))]"""
    )
    assert fills
    for fill in fills:
        assert contrast(fill, paper) >= 4.5, f"{fill} on {paper} in a chart"
    tokens = page.evaluate(
        """() => [...new Set([...document.querySelectorAll('.strip .tok')].map((one) => {
             const style = getComputedStyle(one);
             return [style.color, style.backgroundColor].join('|'); }))]"""
    )
    assert len(tokens) >= 3
    for pair in tokens:
        ink, behind = pair.split("|")
        clear = behind.startswith("rgba(0, 0, 0, 0")
        assert contrast(ink, paper if clear else behind) >= 4.5, f"{pair} in a strip"


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_axe_finds_nothing(demo: Path, open_page: Open, scheme: str, width: int) -> None:
    # Axe brings a script of its own, which the page itself would refuse.
    opened = open_page(demo, scheme, width, bypass_csp=True)
    opened.draw_all()
    for summary in opened.page.locator("details.numbers > summary").all():
        summary.click()
    opened.page.locator("details.case summary").first.click()
    opened.page.wait_for_selector(".strip .tok")
    found = axe.Axe().run(opened.page).response["violations"]
    assert [(one["id"], one["impact"], one["nodes"][0]["html"][:200]) for one in found] == []


def test_it_prints_light_and_whole(demo: Path, open_page: Open, tmp_path: Path) -> None:
    opened = open_page(demo, "dark")
    opened.page.wait_for_selector(".chart svg")
    opened.page.pdf(path=tmp_path / "report.pdf", format="A4")
    printed = (tmp_path / "report.pdf").read_bytes()
    assert 3 <= len(re.findall(rb"/Type\s*/Page[^s]", printed)) <= 30
    opened.page.emulate_media(media="print")
    assert not opened.page.locator(".themes").is_visible()
    assert not opened.page.locator(".filters").is_visible()
    assert_calm(opened, demo)


HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "\x1b[31mred\x1b[0m \u202egnirts\u202c \x00\x07",
    "{{ 7*7 }} ${7*7} <!-- -->]]>",
    '=HYPERLINK("http://example.invalid")',
)


def test_what_a_model_wrote_is_only_text(tmp_path: Path, open_page: Open) -> None:
    with TraceStore(tmp_path / "traces.db") as store:
        run = StoredRun(store, model=HOSTILE[0])
        for i in range(12):
            text = HOSTILE[i % len(HOSTILE)]
            run.problem(
                tried=[("retry", "failed", 10), (HOSTILE[1], "rescued", 20)],
                key=f"{text}{i}",
                task=HOSTILE[i % 3],
                regime=HOSTILE[0],
                prompt=text,
                texts=[text] * 6,
                features=(0.1 * i, 1.0, -1.0),
            )
    path = reported(tmp_path)
    opened = open_page(path)
    assert HOSTILE[0] in opened.point_at_first().inner_text()
    opened.draw_all()
    for summary in opened.page.locator("summary:visible").all():
        summary.click()
    assert opened.page.evaluate("window.hacked") is None
    assert opened.count("img") == 0
    assert "window.hacked = 1" in opened.page.locator("main").inner_text()
    assert_calm(opened, path)


@pytest.mark.parametrize("problems", [[], ["pppp"], ["ffff"]])
def test_small_stores_have_a_page_worth_reading(
    tmp_path: Path, open_page: Open, problems: list[str]
) -> None:
    with TraceStore(tmp_path / "traces.db") as store:
        if problems:
            run = StoredRun(store)
            for samples in problems:
                run.problem(samples=samples)
    path = reported(tmp_path)
    opened = open_page(path)
    opened.draw_all()
    said = opened.page.locator("main").inner_text()
    if problems != ["ffff"]:
        assert "recov-graph demo" in said
    else:
        assert "Only 1 problem failed" in said
    assert "NaN" not in said
    assert "undefined" not in said
    assert "None" not in said
    assert_calm(opened, path)


@pytest.mark.long
def test_ten_thousand_problems_are_a_small_page_that_opens_at_once(
    tmp_path: Path, open_page: Open
) -> None:
    import random
    import time

    chance = random.Random(0)
    with TraceStore(tmp_path / "traces.db") as store:
        run = StoredRun(store)
        for i in range(10_000):
            rescued = "rescued" if chance.random() < 0.4 else "failed"
            run.problem(
                tried=[("retry", "failed", 50), ("dense_steer", rescued, 90)],
                key=f"a-problem-with-a-name-of-some-length-{i:06}",
                task=f"task-{i % 7}",
                features=(chance.random(), chance.gauss(1, 0.2), chance.gauss(-1, 0.5)),
                retry=(chance.random() < 0.2, 150),
            )
    started = time.monotonic()
    path = reported(tmp_path)
    assert time.monotonic() - started < 20
    assert path.stat().st_size < 3_000_000
    opened = open_page(path)
    started = time.monotonic()
    opened.page.wait_for_selector(".pair .chart canvas")
    assert time.monotonic() - started < 10
    assert "10,000 of 10,000 failures shown" in opened.page.locator(".shown").inner_text()
    opened.page.select_option("select[name=task]", "task-3")
    opened.wait_for("/^1,4\\d\\d of 10,000/.test(document.querySelector('.shown').textContent)")
    assert_calm(opened, path)

"""Do reports answer in a browser, harmlessly, at any width, in light and dark, and without script?

Headless Chromium (the system's) is driven by Playwright; axe-core judges accessibility. Expected
contents are those of the result's own tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from opbyte.analysis.answers.simulate import Simulation, simulate
from opbyte.analysis.plots import throughput_latency
from opbyte.analysis.report import report, scripts
from opbyte.analysis.report.simulation import layer_rows
from opbyte.analysis.show.result import Drawing, Result

EVIL = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"
RTL = "\u05e9\u05dc\u05d5\u05dd \u202egnp.exe"
LONG = "n" * 10_000
BUTTONS = {"Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"}
LIVE = "figure[data-live]"


class Page:
    """An open page, and what it said and asked for."""

    def __init__(self, page: Any, path: Path) -> None:
        self.page = page
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(path.as_uri())

    def draw(self) -> None:
        """Scroll to every figure, so that it is drawn."""
        for i in range(self.page.locator(LIVE).count()):
            figure = self.page.locator(LIVE).nth(i)
            figure.scroll_into_view_if_needed()
            figure.locator(".main-svg").first.wait_for()

    def quiet(self) -> None:
        """Nothing was said, nothing but the page itself asked for."""
        assert self.said == []
        assert len(self.asked) == 1


@pytest.fixture(scope="module")
def run() -> Simulation:
    return simulate(
        "mixtral-8x7b", "duplex-x4", lengths="lognormal", keep_stages=True, rate=4.0,
        requests=60, input_len=256, output_len=32,
    )  # fmt: skip


@pytest.fixture(scope="module")
def path(run: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(report(run))
    return file


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_is_quiet(browser: Any, path: Path, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core")
    view = {"width": width, "height": 900}
    opened = Page(browser.new_page(viewport=view, color_scheme=scheme), path)
    opened.draw()
    page = opened.page
    assert page.locator(LIVE).count() == 4
    root = "document.documentElement"
    assert page.evaluate(f"{root}.scrollWidth") == page.evaluate(f"{root}.clientWidth")
    over = "e => [...document.querySelectorAll('h1,h2,p,a,figcaption,.live,.cell,.main-svg')]"
    over += f".filter(x => x.getBoundingClientRect().right > {root}.clientWidth + 1).length"
    assert page.evaluate(over) == 0
    titles = "es => es.map(e => e.dataset.title)"
    assert set(page.locator(".modebar-btn").evaluate_all(titles)) == BUTTONS
    opened.quiet()
    faults = axe.Axe().run(page).response["violations"]
    assert not [(f["id"], f["nodes"][0]["html"]) for f in faults if f["impact"] in ("serious", "critical")]
    page.close()


def test_figures_answer(browser: Any, path: Path) -> None:
    opened = Page(browser.new_page(viewport={"width": 1280, "height": 900}), path)
    opened.draw()
    page = opened.page
    figure = page.locator(LIVE).nth(1)  # the roofline
    figure.scroll_into_view_if_needed()
    assert figure.locator(".still").is_hidden()
    names = figure.locator(".legendtext").all_text_contents()
    experts = names.index("moe on logic-pim")
    point = figure.locator(".scatterlayer .trace .points path").first
    marks = figure.locator(".scatterlayer .trace .points path")
    for i in range(marks.count()):
        box = marks.nth(i).bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_timeout(80)
        if "experts" in (figure.locator(".hoverlayer").text_content() or ""):
            break
    assert "experts on" in figure.locator(".hoverlayer").text_content()
    assert "Op/B" in figure.locator(".hoverlayer").text_content()
    before = marks.count()
    figure.locator(".legendtoggle").nth(experts).click()
    page.wait_for_timeout(600)  # a second click within it would be a double click
    assert marks.count() < before
    graph = figure.locator(".js-plotly-plot")
    limits = "g => g.layout.xaxis.range.slice()"
    low, high = graph.evaluate(limits)
    drag = figure.locator(".nsewdrag").bounding_box()
    page.mouse.move(drag["x"] + 0.3 * drag["width"], drag["y"] + 0.3 * drag["height"])
    page.mouse.down()
    page.mouse.move(drag["x"] + 0.6 * drag["width"], drag["y"] + 0.7 * drag["height"], steps=4)
    page.mouse.up()
    page.wait_for_timeout(100)
    inner = graph.evaluate(limits)
    assert low < inner[0] < inner[1] < high
    assert point.count() == 1
    opened.quiet()
    page.close()


def test_panels_over_one_axis_are_zoomed_together(browser: Any, path: Path) -> None:
    opened = Page(browser.new_page(viewport={"width": 1280, "height": 900}), path)
    opened.draw()
    graphs = opened.page.locator(LIVE).nth(3).locator(".js-plotly-plot")
    assert graphs.count() == 4
    graphs.first.evaluate("g => Plotly.relayout(g, {'xaxis.range': [1, 2]})")
    opened.page.wait_for_timeout(300)
    for i in range(4):
        assert graphs.nth(i).evaluate("g => g.layout.xaxis.range") == [1, 2]
    opened.page.close()


def test_tables_sort_and_filter(browser: Any, path: Path, run: Simulation) -> None:
    opened = Page(browser.new_page(viewport={"width": 1280, "height": 900}), path)
    page = opened.page
    rows = layer_rows(run.run)
    table = page.locator("table").filter(has=page.get_by_role("button", name="layer")).last
    assert table.locator("tbody tr").count() == len(rows)
    header = table.get_by_role("button", name="of time")

    def shares() -> list[float]:
        cells = table.locator("tbody td:nth-child(3)").all_text_contents()
        return [float(cell.rstrip("%")) for cell in cells]

    expected = sorted(float(row["of time"].rstrip("%")) for row in rows)
    header.click()
    assert shares() == expected
    assert table.locator("th[aria-sort=ascending]").count() == 1
    header.focus()
    page.keyboard.press("Enter")
    assert shares() == expected[::-1]
    constants = page.locator("section").filter(has=page.get_by_role("heading", name="Constants"))
    constants.locator("summary").click()
    constants.get_by_label("Filter rows").fill("link latency")
    shown = constants.locator("tbody tr:visible").all_text_contents()
    assert shown
    assert all("link" in text and "latency" in text for text in shown)
    opened.quiet()
    page.close()


def test_it_is_whole_without_script_and_in_print(browser: Any, path: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.locator(".still svg:visible").count() == 4
    for folded in page.locator("summary").all():  # opens without a script too
        folded.click()
    assert page.locator("tbody tr:visible").count() == page.locator("tbody tr").count()
    context.close()
    opened = Page(browser.new_page(), path)
    opened.draw()
    opened.page.emulate_media(media="print")
    assert opened.page.locator(".still svg:visible").count() == 4
    assert opened.page.locator(".live:visible").count() == 0
    assert opened.page.locator("details tbody tr").first.bounding_box()
    opened.page.close()


class Named(Result):
    """An answer whose every name is given by somebody else."""

    def rows(self) -> Sequence[Mapping[str, Any]]:
        return [{EVIL: name, "value": 1.0} for name in (EVIL, RTL, LONG)] * 4

    def to_dict(self) -> dict[str, Any]:
        return {}

    def blocks(self) -> list[str | Sequence[Mapping[str, Any]]]:
        return [f"{EVIL} {RTL} {LONG}: {EVIL} {RTL} {LONG}", self.rows()]

    def drawings(self) -> Sequence[Drawing]:
        table = pd.DataFrame(
            [(name, load, load / 10) for name in (EVIL, RTL, LONG[:300]) for load in (1.0, 2.0)],
            columns=["run", "load_per_s", "ttft_s_p99"],
        )
        figure = throughput_latency(table, ("ttft_s_p99",), EVIL, load="load_per_s")
        return [Drawing(figure, f"{EVIL} {RTL} {LONG}")]


def test_figures_answer_with_the_library_beside_and_are_pictures_without(browser: Any, tmp_path: Path) -> None:
    file, library = tmp_path / "run" / "report.html", tmp_path / scripts.SHARED
    file.parent.mkdir()
    file.write_text(report(Named(), f"../{library.name}"))
    alone = Page(browser.new_page(), file)
    alone.page.locator("main > .note").wait_for()
    assert library.name in alone.page.locator("main > .note").inner_text()
    assert alone.page.locator(".still svg:visible").count() == 1
    assert alone.page.locator(".live").count() == 0
    assert alone.page.get_by_label("Filter rows").count()
    alone.page.close()
    library.write_text(scripts.library())
    opened = Page(browser.new_page(), file)
    opened.draw()
    assert opened.page.locator("main > .note").count() == 0
    assert opened.page.locator(".still svg:visible").count() == 0
    assert opened.said == []
    assert opened.asked == [file.as_uri(), library.as_uri()]
    opened.page.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_names_are_harmless(browser: Any, tmp_path: Path, width: int) -> None:
    file = tmp_path / "report.html"
    file.write_text(report(Named()))
    opened = Page(browser.new_page(viewport={"width": width, "height": 900}), file)
    opened.draw()
    page = opened.page
    page.get_by_role("button", name="value").click()
    page.get_by_label("Filter rows").fill("script")
    assert page.locator("table").first.locator("tbody tr:visible").count() == 4
    for mark in page.locator(".points path").all():
        box = mark.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_timeout(60)
    legend = page.locator(".legendtext").all_text_contents()
    assert legend[0].startswith("<script>document.title=")
    assert not [text for text in legend if "\u202e" in text or len(text) > 100]
    assert page.title().startswith("<script>")
    assert page.locator("img").count() == 0
    root = "document.documentElement"
    assert page.evaluate(f"{root}.scrollWidth") == page.evaluate(f"{root}.clientWidth")
    opened.quiet()
    page.close()

"""The report in a real browser: charts are drawn, nothing of a dataset runs, nothing is asked of the network."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from run_folders import Page, fabricate
from tamis.report import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=20000",
    "--window-size=1280,3000",
)
# Shows the hover box of the first points of the map, which renders a part of HTML.
HOVER = """
const chart = document.getElementById("chart-map");
const shown = [];
for (let point = 0; point < 14; point++) {
  Plotly.Fx.hover(chart, [{ curveNumber: point % 2, pointNumber: point >> 1 }]);
  shown.push(chart.querySelector(".hoverlayer").innerHTML);
}
const marks = document.getElementById("map-marks");
marks.selectedIndex = 1;
marks.dispatchEvent(new Event("change"));
const kept = document.createElement("template");
kept.innerHTML = shown.join("");
const rest = document.createElement("div");
rest.id = "hovered";
rest.dataset.boxes = shown.filter((box) => box.includes("<text")).length;
rest.dataset.tags = [...new Set([...kept.content.querySelectorAll("*")].map((element) => element.localName))].join(" ");
rest.dataset.marked = chart.data[2].x.length;
rest.dataset.asked = performance.getEntriesByType("resource").map((entry) => entry.name).join(" ");
document.body.append(rest);
"""

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    return found


def opened(browser: str, page: Path, profile: Path, *options: str) -> tuple[str, str]:
    """Elements of the page after its scripts ran, and what the browser's console said."""
    command = [browser, *QUIET, f"--user-data-dir={profile}", *options, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return done.stdout, console


@pytest.mark.parametrize("hostile", [False, True], ids=["plain", "hostile"])
def test_charts_are_drawn_and_nothing_else_happens(tmp_path: Path, browser: str, hostile: bool) -> None:
    page = write_report(fabricate(tmp_path / "run", rows=400, hostile=hostile))
    dom, console = opened(browser, page, tmp_path / "profile")
    assert console == ""
    places = len(re.findall('<div class="chart[^"]*"[^>]* id="chart-', dom))
    assert places >= 14
    assert len(re.findall('class="main-svg"', dom)) >= places
    for kind in ("barlayer", "scatterlayer", 'class="point"', "legendtext"):
        assert kind in dom, kind
    for tag, attributes in Page(dom).elements:
        assert tag not in ("img", "iframe", "object", "form"), tag
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href"):
            assert str(attributes.get(name, "#")).startswith(("#", "data:,")), attributes


def test_hover_boxes_are_inert_even_without_the_policy(tmp_path: Path, browser: str) -> None:
    page = write_report(fabricate(tmp_path / "run", rows=400, hostile=True))
    text = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"), count=1)
    page.write_text(text.replace("</body>", f"<script>{HOVER}</script></body>"), encoding="utf-8")
    dom, console = opened(browser, page, tmp_path / "profile")
    assert console == ""
    hovered = next(attributes for _, attributes in Page(dom).elements if attributes.get("id") == "hovered")
    assert int(hovered["data-boxes"] or 0) >= 10
    assert set(str(hovered["data-tags"]).split()) <= {"g", "path", "rect", "text", "tspan"}
    assert int(hovered["data-marked"] or 0) > 0
    assert hovered["data-asked"] == ""

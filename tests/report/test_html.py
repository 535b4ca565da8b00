"""report.html in a real browser: it fits a phone, loads nothing and says nothing to the console."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgecompile.build import build
from edgecompile.plan import Request, plan
from edgecompile.report.files import folder_of
from tests import tiny
from tests.browser import CHROMIUM, Page, browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]
SHAPES = [(390, False), (390, True), (1440, False), (1440, True)]


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a tiny model that was built and checked for two targets."""
    place = tmp_path_factory.mktemp("html")
    model = tiny.bert(place / "tiny-bert", seed=5)
    request = Request(
        str(model), ("cpu", "gguf"), place / "dist", settings=("quantize.method=rtn",)
    )
    results = list(build(plan(request), lambda *_: None))
    return folder_of(results[-1].bundle) / "report.html"


@pytest.fixture(scope="module")
def page(html: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.open(html)
        yield opened


@pytest.mark.parametrize(("width", "dark"), SHAPES)
def test_nothing_scrolls_sideways(page: Page, width: int, dark: bool) -> None:
    page.shape(width, dark)
    assert page.value("document.scrollingElement.scrollWidth") == width


@pytest.mark.parametrize(("width", "dark"), SHAPES)
def test_the_picture_is_not_blank(page: Page, width: int, dark: bool) -> None:
    from PIL import Image

    page.shape(width, dark)
    pixels = np.asarray(Image.open(io.BytesIO(page.picture())).convert("L"))
    share = [(part > 128).mean() for part in np.array_split(pixels, 4)]
    assert all(part < 0.5 if dark else part > 0.5 for part in share)
    assert all(len(np.unique(part)) > 20 for part in np.array_split(pixels, 4))


@pytest.mark.parametrize(("width", "dark"), SHAPES)
def test_every_plot_has_room(page: Page, width: int, dark: bool) -> None:
    page.shape(width, dark)
    assert page.value(NARROWEST) >= 200


@pytest.mark.parametrize(("width", "dark"), SHAPES)
def test_no_two_figures_of_an_axis_overlap(page: Page, width: int, dark: bool) -> None:
    page.shape(width, dark)
    assert page.value(OVERLAPPING) == []


def test_the_times_of_the_calls_are_drawn(page: Page) -> None:
    drawn = page.value("document.querySelector('svg[aria-label^=\"times of a call\"]') !== null")
    assert drawn


def test_it_asks_for_no_other_file(page: Page, html: Path) -> None:
    assert {url for url in page.requests if not url.startswith("data:")} == {html.as_uri()}


def test_the_console_stays_empty(page: Page) -> None:
    assert page.complaints == []


def test_every_step_is_printed(page: Page) -> None:
    page.ask("Emulation.setEmulatedMedia", media="print")
    heights = page.value(
        "[...document.querySelectorAll('details table')].map(e => e.getBoundingClientRect().height)"
    )
    page.ask("Emulation.setEmulatedMedia", media="")
    assert min(heights) > 20


def test_text_stands_out_from_its_ground(page: Page) -> None:
    for dark in (False, True):
        page.shape(1440, dark)
        assert page.value(CONTRAST) >= 4.5


NARROWEST = """Math.min(...[...document.querySelectorAll('.plot svg, .chart svg')]
  .map(e => e.getBoundingClientRect().width))"""
# Texts of one drawing that touch each other; the names of a frontier's dots are in circles.
OVERLAPPING = """[...document.querySelectorAll('svg')].flatMap(svg => {
  const texts = [...svg.querySelectorAll('text:not(.t-number)')];
  const boxes = texts.map(e => e.getBoundingClientRect());
  return texts.flatMap((one, i) => texts.slice(i + 1).filter((other, n) => {
    const a = boxes[i], b = boxes[i + 1 + n];
    return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  }).map(other => one.textContent + ' | ' + other.textContent));
})"""
# The least contrast (WCAG 2.2, 1.4.3) of any element's text with the ground painted below it.
CONTRAST = """(() => {
  const light = (c) => {
    const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (c !== 'rgba(0, 0, 0, 0)') return c;
    }
    return 'rgb(255, 255, 255)';
  };
  let least = 21;
  for (const e of document.querySelectorAll('main *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    if (e.tagName === 'title') continue;  // a tool tip
    const svg = e instanceof SVGElement, style = getComputedStyle(e);
    if (svg && e.classList.contains('in')) continue;  // on its own dot
    const [a, b] = [light(svg ? style.fill : style.color), light(ground(e))];
    least = Math.min(least, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  }
  return least;
})()"""

"""The report in a browser, where there is one: it renders, says nothing on the console, fits."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from genobird.report.logo import Strip, pair
from genobird.report.page import render
from genobird.report.summary import summarise_regions, summarise_variants

CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
VOID = {"meta", "link", "br", "hr", "img", "input"}
WIDTHS = (360, 800, 1400)  # a phone, half a screen, a screen

# Loads the page in frames of several widths and writes down what it finds.
PROBE = """<!doctype html><meta charset="utf-8"><title>none</title>
<script>
const found = [];
function look(frame) {{
  const page = frame.contentDocument, width = page.documentElement.clientWidth;
  const all = [...page.body.querySelectorAll("*")];
  const lost = [...page.querySelectorAll("a")].filter(
    (a) => !page.getElementById(decodeURIComponent(a.hash.slice(1))));
  const figures = [...page.querySelectorAll("svg")].map((s) => s.getBoundingClientRect().height);
  const cut = all.filter((e) => !e.closest("svg") && (e.scrollWidth > e.clientWidth + 1
    && frame.contentWindow.getComputedStyle(e).display != "inline"
    || e.getBoundingClientRect().right > width + 1));
  const style = frame.contentWindow.getComputedStyle(page.body);
  found.push({{
    links: page.querySelectorAll("a").length, lost: lost.length, cut: cut.map((e) => e.outerHTML),
    figures: figures.length, flat: figures.filter((h) => h < 30).length,
    ink: style.color, paper: style.backgroundColor}});
  document.title = JSON.stringify(found);
}}
</script>{frames}"""
FRAME = '<iframe width="{width}" height="700" onload="look(this)" srcdoc="{page}"></iframe>'


class Checker(HTMLParser):
    """Finds elements that are not closed in order, names that are used twice, and resources."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.names += [found["id"]] if found.get("id") else []
        self.links += [v for k, v in attributes if k in ("href", "src", "xlink:href") and v]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()


@pytest.fixture
def page(ranked_table) -> str:
    count = 9
    regions = pd.DataFrame(
        {
            "chrom": ["chr20"] * count,
            "start": np.arange(count) * 1000,
            "end": np.arange(count) * 1000 + 1,
            "name": ["background" if row % 2 else f"gene{row}" for row in range(count)],
            "strand": ["+"] * count,
            "status": ["OK"] * count,
            "promoter": np.linspace(0, 1, count),
            "K562|CTCF|None#338": np.linspace(1, 0, count),
        }
    )
    own = np.array([[found == base for base in "ACGT"] for found in "ACGTA"])
    strip = Strip("ACGTA", np.where(own, 0, -0.5).astype(np.float32), "REF", (2, 3))
    logos = {(record, 1): pair([strip, strip], f"logo {record}") for record in (2, 3)}
    facts = {"command": "genobird variants " + "a" * 300, "model": "abc"}
    tables = summarise_regions([regions]), summarise_variants([ranked_table])
    return render(*tables, facts, logos=logos)


def test_the_page_is_well_formed_and_needs_nothing_from_elsewhere(page):
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    assert len(checker.names) == len(set(checker.names))
    assert len(checker.links) > 20
    assert all(link.startswith("#") for link in checker.links)
    assert {link[1:] for link in checker.links} <= set(checker.names)
    assert "<script" not in page
    assert f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">' in page
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_works_in_a_browser_and_nothing_is_cut_at_any_width(page, tmp_path, scheme):
    probe = tmp_path / "probe.html"
    frames = [FRAME.format(width=width, page=html.escape(page)) for width in WIDTHS]
    probe.write_text(PROBE.format(frames="".join(frames)))
    done = browse(probe, tmp_path, scheme)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None, done.stderr
    found = json.loads(html.unescape(title[1]))
    assert len(found) == len(WIDTHS)
    for frame in found:
        assert (frame["cut"], frame["lost"], frame["flat"]) == ([], 0, 0)
        assert frame["links"] >= 13
        assert frame["figures"] == 5
        ink, paper = (brightness(frame[name]) for name in ("ink", "paper"))
        assert (ink > paper) == (scheme == "dark")
    assert "CONSOLE" not in done.stderr


def brightness(colour: str) -> float:
    return float(np.mean([int(n) for n in re.findall(r"\d+", colour)]))


def browse(file: Path, folder: Path, scheme: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    command = [
        *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--no-first-run", "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}"),
        *("--virtual-time-budget=3000", *dark, "--dump-dom", file.as_uri()),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True)

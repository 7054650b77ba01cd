"""The page in a browser, where there is one: by keyboard alone, as wide as a phone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, sync_playwright

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
PHONE = {"width": 390, "height": 844}
# An answer, why there is none, or what a server in trouble sends, which is plain text.
OVER = "[role=status]:text-matches('Done|not|Cancelled'), .error, body > pre"
SPOKEN = "el => el.labels?.[0]?.innerText || el.innerText || el.title"


@pytest.fixture(params=["light", "dark"])
def page(request: pytest.FixtureRequest) -> Iterator[Page]:
    """A phone that sees light or dark pages; anything on its console fails the test."""
    with sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"], timeout=0
        )
        context = browser.new_context(viewport=PHONE, color_scheme=request.param)
        context.set_default_timeout(0)  # however slow the machine is
        page = context.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        yield page
        browser.close()
    assert said == []


def tab_to(page: Page, what: str) -> None:
    """Press Tab until what has the focus says this."""
    for _ in range(20):
        page.keyboard.press("Tab")
        if what in page.evaluate(f"({SPOKEN})(document.activeElement)"):
            return
    raise AssertionError(f"Tab does not lead to {what}")


def wait_for_answer(page: Page) -> None:
    """Wait until nothing more happens; the page reloads itself when there is a report."""
    page.wait_for_selector(OVER)
    assert page.inner_text(OVER) == "Done.", page.inner_text("body")


def assert_fits(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


@needs_chromium
def test_a_variant_is_looked_up_by_keyboard_on_a_phone(page, address, tiny_contigs):
    ref = tiny_contigs["chr1"][20_000]
    asked = f"chr1:20001 {ref}>{'AC'[ref == 'A']}"
    page.goto(address)
    assert_fits(page)
    tab_to(page, "Variants or regions")
    page.keyboard.type(asked)
    tab_to(page, "Score")
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=status], .error, body > pre")
    assert_fits(page)
    wait_for_answer(page)
    assert page.inner_text("h1") == asked
    report = page.frame_locator("iframe")
    assert report.locator("h1").inner_text() == "Variants scored by genobird"
    assert_fits(page)
    tab_to(page, "scored.vcf.gz")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "scored.vcf.gz"
    page.reload()
    wait_for_answer(page)
    tab_to(page, "Delete this answer")
    page.keyboard.press("Enter")
    page.wait_for_selector("textarea")
    assert page.url == address


@needs_chromium
def test_two_tabs_ask_at_once_and_a_dropped_file_is_taken(page, address):
    page.goto(address)
    other = page.context.new_page()
    other.goto(address)
    other.fill("textarea", "chr1:701-900")
    other.click("button")
    page.evaluate(
        """() => {
          const moved = new DataTransfer();
          moved.items.add(new File(["..."], "mine.vcf"));
          document.body.dispatchEvent(
            new DragEvent("drop", {dataTransfer: moved, bubbles: true, cancelable: true}));
        }"""
    )
    assert page.evaluate("document.querySelector('[type=file]').files[0].name") == "mine.vcf"
    wait_for_answer(other)
    assert other.locator("iframe").count() == 1

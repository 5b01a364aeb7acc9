"""A page in headless Chromium as a person sees it, and whatever it asked the network for.

    with chromium() as browser, visit(browser, "http://127.0.0.1:7860") as seen:
        assert seen.page.get_by_role("heading").inner_text() == "Draw a digit"
        assert seen.outside() == []

The browser is Debian's (apt-get install chromium), driven by playwright; a test skips where one of the two is absent.
Have one ``chromium()`` open at a time: a fixture of the scope "module" shares it among the tests of a file.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


@dataclass
class Visit:
    """An open page, every address that it asked for, and its errors: uncaught ones and those on the console."""

    page: "Page"
    requested: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def outside(self) -> list[str]:
        """The addresses asked for that lie on another machine; what the page holds itself (data:, blob:) is none."""
        on_network = [url for url in self.requested if urlsplit(url).scheme not in ("data", "blob")]
        return [url for url in on_network if urlsplit(url).hostname not in LOOPBACK]


@contextmanager
def chromium(*options: str) -> Iterator["Browser"]:
    """Start a headless Chromium with these options of its own; skips the test where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("needs Chromium (apt-get install chromium)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", *options])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visit(browser: "Browser", address: str, width: int = 900, height: int = 900, **options: Any) -> Iterator[Visit]:
    """Open a page in a fresh profile.

    Args:
        browser: What ``chromium()`` gave.
        address: The page.
        width: Of the window, in CSS pixels.
        height: Of the window, in CSS pixels.
        options: Of playwright's ``Browser.new_page``, such as color_scheme="dark", has_touch=True,
            device_scale_factor=2.
    """
    page = browser.new_page(viewport={"width": width, "height": height}, **options)
    page.set_default_timeout(8_000)  # milliseconds
    seen = Visit(page)
    page.context.on("request", lambda request: seen.requested.append(request.url))
    page.on("websocket", lambda socket: seen.requested.append(socket.url))
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
    try:
        page.goto(address)
        yield seen
    finally:
        page.close()  # and the profile with it


def drag(element: "Locator", points: list[tuple[float, float]], lift: bool = True) -> None:
    """Press the mouse on an element, move it through points and let go.

    Args:
        element: Where.
        points: In [0, 1] of the element's width and height.
        lift: Whether to let go at the end.
    """
    box = element.bounding_box()
    assert box is not None
    (x, y), *others = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    mouse = element.page.mouse
    mouse.move(x, y)
    mouse.down()
    for x, y in others:
        mouse.move(x, y, steps=5)
    if lift:
        mouse.up()


def drop(page: "Page", name: str, content: bytes) -> None:
    """Let a file fall onto a page."""
    transfer = page.evaluate_handle(
        """([name, bytes]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], name));
            return transfer;
        }""",
        [name, list(content)],
    )
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})


def contrast(element: "Locator") -> float:
    """Contrast of a text against the background below it, as WCAG defines it: 1 to 21."""
    colours = element.evaluate(
        """element => {
            const box = element.getBoundingClientRect();
            const below = document.elementsFromPoint(box.x + box.width / 2, box.y + box.height / 2);
            const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
            const painted = below.map(one => numbers(getComputedStyle(one).backgroundColor)).filter(c => c[3] !== 0);
            return [numbers(getComputedStyle(element).color), painted[0]];
        }"""
    )
    shares = np.array([colour[:3] for colour in colours]) / 255  # (2, 3)
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    dim, bright = sorted(linear @ [0.2126, 0.7152, 0.0722])
    return float((bright + 0.05) / (dim + 0.05))

"""A headless Chromium for pages: the first of $CHROME, chromium and google-chrome."""

import contextlib
import os
import shutil

import pytest

SIZES = {"wide": {"width": 1280, "height": 800}, "narrow": {"width": 390, "height": 800}}


def chromium() -> str | None:
    names = (os.environ.get("CHROME"), "chromium", "google-chrome")
    return next((path for name in names if name and (path := shutil.which(name))), None)


needs_browser = pytest.mark.skipif(
    chromium() is None, reason="no browser: neither $CHROME, chromium nor google-chrome"
)


@contextlib.contextmanager
def launched():
    """A browser, closed at the end."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        # root, as in CI, has no sandbox
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=chromium(), args=flags)
        yield browser
        browser.close()

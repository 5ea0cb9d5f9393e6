"""Debian's Chromium under Playwright, with a webcam that shows what the test requires."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_ARGUMENTS = (
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


@contextmanager
def chromium(webcam: Path | None = None) -> Iterator["Browser"]:
    """A browser; `webcam` is a motion JPEG file. Skips with the reason where there is no browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("no chromium: apt-get install chromium")
    shown = [f"--use-file-for-fake-video-capture={webcam}"] if webcam else []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=executable, args=[*_ARGUMENTS, *shown])
        try:
            yield browser
        finally:
            browser.close()

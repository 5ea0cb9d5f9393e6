"""Photograph, browser and page of the tests: the predictor's page before a real system, in Chromium."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests.support import packs
from tests.support.chain import served_chain
from tests.support.chromium import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="session")
def astronaut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NASA's portrait of Eileen Collins, in the public domain."""
    data = pytest.importorskip("skimage.data", reason="no photograph: pip install scikit-image")
    path = tmp_path_factory.mktemp("pictures") / "astronaut.png"
    Image.fromarray(data.astronaut()).save(path)
    return path


@pytest.fixture(scope="module")  # its log lines would be in what later tests capture
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served_chain(tmp_path_factory.mktemp("data"), "human", packs.human_pack_dir()) as url:
        yield url


@pytest.fixture(scope="module")  # a process may have one Playwright at a time, and other files start theirs
def browser(astronaut: Path) -> Iterator["Browser"]:
    frame = io.BytesIO()
    Image.open(astronaut).convert("RGB").resize((480, 480)).save(frame, "JPEG", quality=90)
    webcam = astronaut.with_name("webcam.mjpeg")
    webcam.write_bytes(frame.getvalue() * 10)
    with chromium(webcam) as browser:
        yield browser


@pytest.fixture
def new_page(browser: "Browser", url: str) -> Iterator[Any]:
    """Opens the page; at the end nothing may have been logged, and nothing asked of another host."""
    contexts: list[Any] = []
    complaints: list[str] = []

    def opened(**options: Any) -> "Page":
        options.setdefault("viewport", {"width": 1280, "height": 860})
        context = browser.new_context(accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on(
            "console", lambda message: complaints.append(message.text) if message.type == "error" else None
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((url, "blob:", "data:"))
                else complaints.append(f"asked {request.url}")
            ),
        )
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [text for text in complaints if "status of 4" not in text] == []

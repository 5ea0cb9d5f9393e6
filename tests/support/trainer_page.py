"""The trainer's page in a browser, before a trainer that has no worker."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from trainer.app import create_trainer
from trainer.settings import TrainerSettings

from tests.support.redis_server import redis_server
from tests.support.serving import serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


def jpeg() -> bytes:
    """Return a small grey image."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(file, "JPEG")
    return file.getvalue()


@contextmanager
def served_trainer(data_dir: Path) -> Iterator[str]:
    """Serve a trainer on a data folder; yields its address."""
    with (
        redis_server(data_dir.parent) as redis,
        serving(create_trainer(TrainerSettings(data_dir=data_dir, redis_url=redis.url))) as url,
    ):
        yield url


@contextmanager
def open_page(browser: "Browser", url: str) -> Iterator["Page"]:
    """Open the page as wide as a telephone; at the end, no script of it may have raised an error."""
    page = browser.new_page(viewport={"width": 390, "height": 800})
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    yield page
    page.close()
    assert complaints == []


def read_by_page(page: "Page") -> None:
    """Wait until the page has read the answer that it was given."""
    page.evaluate("() => new Promise((done) => setTimeout(done, 100))")

"""`python -m tools.screenshots`: take screenshots of the running system for the documentation.

The face is scikit-image's `astronaut`, Eileen Collins, a NASA photograph in the public domain.
"""

import argparse
import io
import shutil
import tempfile
from pathlib import Path

import httpx
from agegender.http_clients import user_options
from PIL import Image
from playwright.sync_api import Browser, Playwright, sync_playwright
from skimage.data import astronaut

from tools.stack import ROOT

IMAGES = ROOT / "docs" / "images"
VIEWS = {
    "page": {"viewport": {"width": 1100, "height": 800}},
    "page-dark": {"viewport": {"width": 1100, "height": 800}, "color_scheme": "dark"},
    "page-phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "device_scale_factor": 2},
}


def photograph() -> bytes:
    """Return the photograph as PNG, 512 × 512 pixels."""
    file = io.BytesIO()
    Image.fromarray(astronaut()).save(file, "PNG")  # type: ignore[no-untyped-call]
    return file.getvalue()


def annotate(predictor: str) -> None:
    """Save the annotated photograph."""
    with httpx.Client(timeout=60, **user_options(predictor)) as http:
        answer = http.post(f"{predictor}/age-gender", content=photograph(), headers={"Accept": "image/png"})
    (IMAGES / "annotated.png").write_bytes(answer.raise_for_status().content)


def show_page(browser: Browser, predictor: str, name: str) -> None:
    """Take a screenshot of the page with an answer. Raises Playwright's `TimeoutError` without one."""
    page = browser.new_context(**VIEWS[name]).new_page()  # type: ignore[arg-type]
    page.goto(predictor)
    image = {"name": "astronaut.png", "mimeType": "image/png", "buffer": photograph()}
    page.locator("#files").set_input_files(image)  # type: ignore[arg-type]
    page.locator("#faces > *").first.wait_for(timeout=30_000)
    page.screenshot(path=IMAGES / f"{name}.png", full_page=True)
    page.context.close()


def show_webcam(browser: Browser, predictor: str) -> None:
    """Take a screenshot of the page with the webcam and a selected face. Raises `TimeoutError`."""
    page = browser.new_context(**VIEWS["page"], permissions=["camera"]).new_page()  # type: ignore[arg-type]
    page.goto(predictor)
    page.locator("#camera").click()
    page.locator(".box").click(timeout=30_000)
    page.screenshot(path=IMAGES / "page-webcam.png", full_page=True)
    page.context.close()


def launched(playwright: Playwright, webcam: Path) -> Browser:
    """Start Chromium with a webcam that shows the photograph. webcam : file to write as motion JPEG."""
    file = io.BytesIO()
    Image.fromarray(astronaut()).resize((480, 480)).save(file, "JPEG", quality=95)  # type: ignore[no-untyped-call]
    webcam.write_bytes(file.getvalue() * 10)
    shown = ("--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={webcam}")
    return playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", *shown])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predictor", default="http://127.0.0.1:10003")
    predictor = parser.parse_args().predictor
    IMAGES.mkdir(parents=True, exist_ok=True)
    annotate(predictor)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = launched(playwright, Path(folder) / "webcam.mjpeg")
        for name in VIEWS:
            show_page(browser, predictor, name)
        show_webcam(browser, predictor)
        browser.close()


if __name__ == "__main__":
    main()

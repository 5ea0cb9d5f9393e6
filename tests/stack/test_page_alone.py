"""A person with 300 images and a spreadsheet gets to served heads and a CSV by the trainer's page alone."""

import csv
import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tests.support.chromium import chromium
from tests.support.serving import until
from tests.support.system import SIX_ADULTS, client_of, predict
from tools.stack import Stack

if TYPE_CHECKING:
    from playwright.sync_api import Dialog, Page, Request

IMAGES, PER_PERSON = 300, 5
NAME = "my faces"
_SIDE = 160
_LONG = 400_000  # ms; extraction and training share the machine with the browser and other tests


def portraits(faces: list[Any]) -> Iterator[tuple[str, bytes, int, int, str]]:
    """Yield name, JPEG, age, gender (1: female) and person of images made from six faces of a photograph."""
    draws = np.random.default_rng(5)
    photograph = Image.open(SIX_ADULTS).convert("RGB")
    for number in range(IMAGES):
        person = number // PER_PERSON
        face = faces[person % len(faces)]
        x1, y1, x2, y2 = face.bbox
        side = max(x2 - x1, y2 - y1) * draws.uniform(1.5, 2.0)
        x, y = (x1 + x2) / 2 + draws.uniform(-9, 9), (y1 + y2) / 2 + draws.uniform(-9, 9)
        box = [round(edge) for edge in (x - side / 2, y - side / 2, x + side / 2, y + side / 2)]
        image = photograph.crop((box[0], box[1], box[2], box[3])).resize((_SIDE, _SIDE))
        image = ImageEnhance.Brightness(image).enhance(draws.uniform(0.8, 1.2))
        file = io.BytesIO()
        image.rotate(draws.uniform(-8, 8)).save(file, "JPEG", quality=90)
        age = round(face.age.mean) + person % 7 - 3
        yield f"IMG_{number:04d}.jpg", file.getvalue(), age, int(face.gender.label == "female"), f"p{person}"


def spreadsheet(rows: list[tuple[str, int, int, str]]) -> bytes:
    """Return a table as a spreadsheet saves it in many countries: with semicolons and a byte-order mark."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=";")
    writer.writerow(["Filename", "Years", "Sex", "Person"])
    writer.writerows(rows)
    return text.getvalue().encode("utf-8-sig")


@pytest.fixture
def upload(human_system: Stack, tmp_path: Path) -> Path:
    """Return a zip with the images and the spreadsheet."""
    with client_of(human_system) as client:
        (found,) = predict(client).images
    path = tmp_path / f"{NAME}.zip"
    rows = []
    with zipfile.ZipFile(path, "w") as archive:
        for name, content, age, gender, person in portraits(found.faces):
            archive.writestr(f"{NAME}/{name}", content)
            rows.append((name, age, gender, person))
        archive.writestr(f"{NAME}/people.csv", spreadsheet(rows))
    return path


@pytest.fixture
def page(human_system: Stack) -> Iterator["Page"]:
    """Yield a page on a telephone's screen, and leave the shared system as it was."""
    data_dir = human_system.data_dir
    with client_of(human_system) as client:
        models = dict(predict(client).models)
    with chromium() as browser:
        yield browser.new_page(viewport={"width": 390, "height": 800})
    with (
        httpx.Client(base_url=human_system.url("trainer"), timeout=60) as trainer,
        httpx.Client(base_url=human_system.url("predictor"), timeout=60) as predictor,
        client_of(human_system) as client,
    ):
        own = [run["id"] for run in trainer.get("/experiments").json() if run["datasets"] == [NAME]]
        for run in own:
            trainer.post(f"/experiments/{run}/cancel").raise_for_status()
        for task, version in models.items():
            while dict(predict(client).models)[task] != version:
                predictor.post(f"/models/{task}/rollback").raise_for_status()
        for run in own:
            trainer.delete(f"/experiments/{run}").raise_for_status()
    shutil.rmtree(data_dir / NAME)


def test_page_alone_leads_from_a_zip_to_served_heads_and_a_csv(
    human_system: Stack, page: "Page", upload: Path
) -> None:
    complaints: list[str] = []
    questions: list[str] = []

    url = human_system.url("trainer")

    def complain_about_others(request: "Request") -> None:
        if not request.url.startswith((url, "blob:", "data:")):
            complaints.append(request.url)

    def accept(dialog: "Dialog") -> None:
        questions.append(dialog.message)
        dialog.accept()

    page.on("dialog", accept)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", complain_about_others)
    page.set_default_timeout(60_000)
    page.goto(url)

    # Data: upload, what the columns mean, a look at the faces, extraction.
    page.set_input_files("#files", upload)
    assert page.get_by_label("Name of the data set").input_value() == NAME
    page.get_by_role("button", name="Upload", exact=True).click()
    page.get_by_text(f"{NAME}: {IMAGES} images and people.csv.").wait_for()
    card = page.locator("#datasets article", has=page.get_by_role("heading", name=NAME))
    page.get_by_label("Gender “0” means").select_option("male")
    page.get_by_label("Gender “1” means").select_option("female")
    use = page.get_by_role("button", name="Use these labels")
    card.get_by_text(f"{IMAGES} of {IMAGES} rows").wait_for()
    use.click()
    card.get_by_text("labels.csv written").wait_for()
    card.get_by_role("button", name="Faces").click()
    card.locator(".gallery img:visible").nth(5).wait_for()
    assert card.locator(".gallery li").count() == 24
    card.get_by_role("button", name="Extract").click()
    card.get_by_label("One person by").select_option(label="labels alone")  # six people play sixty
    card.get_by_role("button", name="Start").click()
    card.get_by_text(" of 300 images, ").wait_for()
    card.locator(".extractions").get_by_text("of 300 faces").wait_for(timeout=_LONG)

    # Runs: training, figures, promotion.
    card.get_by_role("button", name="Train").click()
    page.get_by_label("Networks per fold").fill("1")
    page.get_by_label("A person in several folds").select_option(label="is allowed")
    page.locator("#start").get_by_role("button", name="Train").click()
    until(lambda: page.locator("#hint").inner_text() != "", "the request is answered", 60)
    assert page.locator("#hint").inner_text() == "Started."
    run = page.locator("#experiments article").first
    run.get_by_role("heading").wait_for()
    experiment = run.get_by_role("heading").inner_text()
    run.get_by_role("button", name="Serve these heads").click(timeout=_LONG)
    run.get_by_text("Served: ").wait_for()
    run.locator(".served").wait_for()
    assert all("trained on" in question for question in questions)

    # Report: figures, the scatter, the largest errors as thumbnails, and the table for a paper.
    run.get_by_role("button", name="Report").click(timeout=_LONG)  # training on all faces is over first
    page.get_by_role("img", name="Predicted against true age of").wait_for()
    page.locator("#report .gallery img:visible").first.wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Predictions as CSV").click()
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    assert len(rows) > 0.9 * IMAGES
    assert {row["true_gender"] for row in rows} == {"female", "male"}
    overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0, f"the page is {overflow} pixels too wide for a telephone"
    assert complaints == []

    with client_of(human_system) as client:
        until(lambda: experiment in json.dumps(dict(predict(client).models)), "the heads are served", 60)

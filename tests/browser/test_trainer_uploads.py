"""Images and labels that are sent from the trainer's page, and what it rejects of them."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.trainer_page import jpeg, open_page, read_by_page, served_trainer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "first").mkdir()
    (folder / "first" / "a.jpg").write_bytes(jpeg())
    return folder


@pytest.fixture(scope="module")
def url(data_dir: Path) -> Iterator[str]:
    with served_trainer(data_dir) as url:
        yield url


@pytest.fixture
def page(browser: "Browser", url: str) -> Iterator["Page"]:
    with open_page(browser, url) as page:
        page.locator("#datasets article").first.wait_for()
        yield page


def test_rejected_upload_states_why_and_the_next_one_succeeds(
    page: "Page", data_dir: Path, tmp_path: Path
) -> None:
    bad, good = tmp_path / "bad.zip", tmp_path / "good.zip"
    for path, names in ((bad, ("../a.jpg",)), (good, ("a.jpg", "b.jpg"))):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, jpeg())
    page.set_input_files("#files", bad)
    page.get_by_role("button", name="Upload", exact=True).click()
    message = page.locator("#upload .message.error")
    message.wait_for()
    assert "leads out of the data set's folder" in message.inner_text()
    assert not (data_dir / "bad").exists()
    page.set_input_files("#files", good)
    page.get_by_label("Name of the data set").fill("good")
    page.keyboard.press("Enter")
    page.get_by_text("good: 2 images, no table.").wait_for()
    assert {path.name for path in (data_dir / "good").iterdir()} == {"a.jpg", "b.jpg"}


def test_folder_is_uploaded_with_the_folders_in_it(page: "Page", data_dir: Path, tmp_path: Path) -> None:
    for file in ("a/1.jpg", "b/1.jpg", ".hidden/2.jpg"):
        (tmp_path / "two people" / file).parent.mkdir(parents=True)
        (tmp_path / "two people" / file).write_bytes(jpeg())
    (tmp_path / "two people" / "labels.csv").write_text("file,age\na/1.jpg,30\nb/1.jpg,40\n")
    page.set_input_files("#folder", tmp_path / "two people")
    assert page.get_by_label("Name of the data set").input_value() == "two people"
    page.get_by_role("button", name="Upload", exact=True).click()
    page.get_by_text("two people: 2 images and labels.csv.").wait_for()
    assert (data_dir / "two people" / "b" / "1.jpg").read_bytes() == jpeg()
    card = page.locator("#datasets article", has=page.get_by_role("heading", name="two people"))
    card.get_by_text("2 of 2 rows").wait_for()


def test_files_are_dropped_onto_the_page(page: "Page", data_dir: Path) -> None:
    dropped = page.evaluate_handle(
        """(bytes) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "x.jpg", { type: "image/jpeg" }));
            transfer.items.add(new File(["file,age\\nx.jpg,30\\n"], "labels.csv", { type: "text/csv" }));
            return transfer;
        }""",
        list(jpeg()),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    page.get_by_label("Name of the data set").fill("dropped")
    page.get_by_role("button", name="Upload", exact=True).click()
    page.get_by_text("dropped: 1 image and labels.csv.").wait_for()
    assert (data_dir / "dropped" / "x.jpg").read_bytes() == jpeg()
    page.locator("#datasets article", has_text="dropped").get_by_text("1 of 1 rows").wait_for()


def test_list_that_comes_late_does_not_remove_a_data_set(page: "Page", data_dir: Path) -> None:
    held: list[tuple[Route, Any]] = []

    def hold(route: "Route") -> None:  # with the answer from before the upload
        route.continue_() if held else held.append((route, route.fetch()))

    page.route("**/datasets?*", hold)
    page.evaluate("import('/page/datasets.js').then((module) => void module.listDatasets())")
    files = [
        {"name": name, "mimeType": "", "buffer": content}
        for name, content in (("a.jpg", jpeg()), ("people.csv", b"file,age,gender\na.jpg,30,f\n"))
    ]
    page.set_input_files("#files", files)  # type: ignore[arg-type]
    page.get_by_label("Name of the data set").fill("late")
    page.get_by_role("button", name="Upload", exact=True).click()
    late = page.locator("#datasets article", has=page.get_by_role("heading", name="late"))
    late.wait_for()
    route, old = held[0]
    route.fulfill(response=old)
    read_by_page(page)
    assert late.is_visible()

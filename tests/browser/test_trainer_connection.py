"""The trainer's page while the trainer is away: each list is read alone, and what runs is followed again."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from trainer.datasets.embedding_set import write_embedding_set
from trainer.experiments.experiment import save_experiment
from trainer.training.config import TrainingOptions

from tests.support.made_experiment import made_experiment
from tests.support.made_faces import made_faces
from tests.support.trainer_page import jpeg, open_page, served_trainer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

EXTRACTION = {
    "id": "extraction",
    "dataset": "own",
    "image_set": "images",
    "space": {"id": "made-1", "dimension": 4},
    "state": "extracting",
    "progress": {"done": 120, "total": 5000, "images_per_second": None, "seconds_left": None},
    "removed": {},
    "problem": None,
    "summary": None,
}
LOST = "The connection to the trainer is lost"
BACK = "The connection to the trainer is back."


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("data")
    write_embedding_set(folder, "made", "images", made_faces(60, folds=3), {"kind": "made up"})
    (folder / "own").mkdir()
    (folder / "own" / "a.jpg").write_bytes(jpeg())
    (folder / "own" / "labels.csv").write_text("file,age\na.jpg,30\n")
    for name in ("good", "cut"):
        save_experiment(folder, made_experiment([0], TrainingOptions(), name=name))
    damage(folder / "experiments" / "cut" / "experiment.json")
    with served_trainer(folder) as url:
        response = httpx.post(f"{url}/searches", json={"dataset": "made", "task": "age", "trials": 2})
        assert response.status_code == 202, response.text
        yield url


def damage(record: Path) -> None:
    record.write_bytes(record.read_bytes()[:100])


@pytest.fixture
def page(browser: "Browser", url: str) -> Iterator["Page"]:
    """Return a page that has not read anything yet."""
    with open_page(browser, "about:blank") as page:
        page.set_default_timeout(40_000)
        yield page


@pytest.mark.parametrize("list_of", ["experiments", "datasets?all_folders=true"])
@pytest.mark.parametrize("failure", ["rejected", "unreachable", "page of a proxy"])
def test_list_that_cannot_be_read_states_why_and_the_others_are_shown(
    page: "Page", url: str, list_of: str, failure: str
) -> None:
    def fail(route: "Route") -> None:
        match failure:
            case "rejected":
                route.fulfill(json={"type": "urn:x:y", "status": 500, "detail": "It is ill."}, status=500)
            case "unreachable":
                route.abort("connectionrefused")
            case _:
                route.fulfill(body="<h1>Bad gateway</h1>", content_type="text/html", status=502)

    place = list_of.partition("?")[0]
    other = "datasets" if place == "experiments" else "experiments"
    page.route(f"**/{list_of}", fail, times=1)
    page.goto(f"{url}/#{'runs' if place == 'experiments' else 'data'}")
    reason = {"rejected": "It is ill.", "unreachable": "cannot be reached", "page of a proxy": "status 502"}
    page.locator(f"#{place} .unread").get_by_text(reason[failure]).wait_for()
    for section in ("searches", other):
        page.locator(f"#{section} article").first.wait_for(state="attached")
    page.locator("#warnings li").get_by_text("The experiment cut is skipped").wait_for()
    page.get_by_role("button", name="Try again").click()
    page.locator(f"#{place} article").first.wait_for()
    assert page.locator(".unread").count() == 0


def events(*states: dict[str, Any]) -> dict[str, Any]:
    body = "".join(f"data: {json.dumps(state)}\n\n" for state in states)
    return {"body": body, "content_type": "text/event-stream"}


def test_extraction_is_followed_again_when_the_trainer_is_back(page: "Page", url: str) -> None:
    """Answered for the trainer, which is away for longer than the first pause."""
    state = {"away": False, "requests": 0}
    later = {**EXTRACTION, "progress": {**EXTRACTION["progress"], "done": 4000}}  # type: ignore[dict-item]

    def list_datasets(route: "Route") -> None:
        if state["away"]:
            route.abort("connectionrefused")
            return
        listed = httpx.get(f"{url}/datasets?all_folders=true").json()
        for one in listed:
            if one["name"] == "own" and state["requests"] < 5:
                one["extractions"] = [later if state["requests"] else EXTRACTION]
        route.fulfill(json=listed)

    def stream(route: "Route") -> None:
        state["requests"] += 1
        state["away"] = state["requests"] < 4
        route.abort("connectionrefused") if state["away"] else route.fulfill(**events(later))

    page.route("**/datasets?all_folders=true", list_datasets)
    page.route("**/datasets/own/events", stream)
    page.goto(url)
    own = page.locator("#datasets article", has=page.get_by_role("heading", name="own"))
    own.get_by_text("120 of 5000 images").wait_for()
    page.locator("#connection").get_by_text(LOST).wait_for()
    own.get_by_text("4000 of 5000 images").wait_for()
    page.locator("#connection").get_by_text(BACK).wait_for()
    own.get_by_text("ready to extract").wait_for()  # as the list has it after the last stream
    page.wait_for_timeout(1500)
    assert state["requests"] == 5


def test_run_is_followed_again_and_what_the_trainer_rejects_is_shown(page: "Page", url: str) -> None:
    (identifier,) = (one["id"] for one in httpx.get(f"{url}/experiments").json())
    status = httpx.get(f"{url}/experiments/{identifier}").json()
    replies: list[dict[str, Any] | None] = [
        {"json": {}, "status": 429},
        None,
        events({**status, "state": "cancelled"}),
    ]

    def stream(route: "Route") -> None:
        reply = replies.pop(0)
        route.abort("connectionreset") if reply is None else route.fulfill(**reply)

    page.route(f"**/experiments/{identifier}/events", stream)
    page.goto(f"{url}/#runs")
    card = page.locator("#experiments article")
    card.get_by_text("The server returned status 429.").wait_for()
    page.locator("#connection").get_by_text(LOST).wait_for()
    page.locator("#connection").get_by_text(BACK).wait_for()
    assert card.locator(".state").inner_text() == "cancelled" and replies == []
    assert card.locator("footer .message").inner_text() == ""

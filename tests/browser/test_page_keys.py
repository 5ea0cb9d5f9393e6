"""The pages of services that take keys: they ask for one, keep it in the tab, and send it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agegender.keys import ApiKey, Scope
from agegender.spaces import Space
from pydantic import SecretStr
from trainer.app import create_trainer
from trainer.experiments.experiment import Experiment, ExperimentRequest, save_experiment
from trainer.settings import TrainerSettings

from tests.support import packs
from tests.support.chain import SIX_ADULTS, served_chain
from tests.support.redis_server import redis_server
from tests.support.serving import serving
from tests.support.system import picture

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

KEY, SECRET = ApiKey.new("browser", [Scope.PREDICT, Scope.TRAIN])
KEYED: dict[str, Any] = {"api_keys": (KEY,), "service_key": SecretStr("a secret among the services")}


def give_key(page: "Page", secret: str) -> None:
    page.fill("dialog input", secret)
    page.click("dialog button")


def test_predictor_asks_for_the_key_and_keeps_it_in_the_tab(browser: "Browser", tmp_path: Path) -> None:
    with served_chain(tmp_path, "human", packs.human_pack_dir(), **KEYED) as url:
        page = browser.new_page()
        page.goto(url)
        page.set_input_files("#files", SIX_ADULTS)
        give_key(page, "wrong")
        page.wait_for_selector("#status.error")
        assert "key" in page.inner_text("#status")
        page.set_input_files("#files", SIX_ADULTS)
        assert "does not know that key" in page.inner_text("dialog .wrong")
        assert "agegender key NAME" in page.inner_text("dialog")
        give_key(page, SECRET)
        page.wait_for_selector(".face")
        assert page.locator(".face").count() == 6
        assert page.evaluate("localStorage.length") == 0
        page.reload()
        page.set_input_files("#files", SIX_ADULTS)
        page.wait_for_selector(".face")
        stranger = browser.new_context().new_page()
        stranger.goto(url)
        stranger.set_input_files("#files", SIX_ADULTS)
        stranger.wait_for_selector("dialog[open]")


def test_trainer_page_follows_an_experiment_with_the_key(browser: "Browser", tmp_path: Path) -> None:
    request = ExperimentRequest.model_validate({"dataset": "made", "task": "age"})
    experiment = Experiment(
        id="one",
        created=datetime.now(UTC),
        datasets=["made"],
        image_set="images",
        space=Space(id="made-1", dimension=4),
        folds=[0, 1],
        options=request.training_options(),
        preset=request.preset,
    )
    save_experiment(tmp_path, experiment)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a.jpg").write_bytes(picture("JPEG"))
    (tmp_path / "own" / "labels.csv").write_text("file,age\na.jpg,30\n")
    with redis_server(tmp_path) as redis:
        settings = TrainerSettings(data_dir=tmp_path, redis_url=redis.url, **KEYED)
        with serving(create_trainer(settings)) as url:
            page = browser.new_page()
            page.goto(f"{url}/#runs")
            give_key(page, SECRET)
            page.wait_for_selector(".state:text-is('queued')")
            save_experiment(tmp_path, experiment.model_copy(update={"cancelled": True}))
            page.wait_for_selector(".state:text-is('cancelled')")  # reported by the stream of events
            page.get_by_role("tab", name="Data").click()
            page.get_by_role("button", name="Faces").click()
            page.locator(".gallery img:visible").wait_for()
            page.set_input_files("#files", tmp_path / "own" / "a.jpg")
            page.get_by_label("Name of the data set").fill("uploaded")
            page.get_by_role("button", name="Upload", exact=True).click()
            page.get_by_text("uploaded: 1 image, no table.").wait_for()

"""The trainer's page in a real browser, with a real worker: from the form to the served heads."""

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from agegender.files import write_json
from agegender.heads.checkpoints import set_current
from agegender.spaces import Space
from trainer.datasets.embedding_set import write_embedding_set
from trainer.experiments.experiment import save_experiment
from trainer.training.config import TrainingOptions

from tests.support.chromium import chromium
from tests.support.made_experiment import made_experiment
from tests.support.made_faces import made_faces
from tests.support.trainer_processes import running_trainer

if TYPE_CHECKING:
    from playwright.sync_api import Dialog

_LONG = 400_000  # ms; a worker shares the machine with the browser


def test_experiment_is_started_watched_and_served_from_the_page(tmp_path: Path) -> None:
    complaints: list[str] = []
    with running_trainer(tmp_path) as trainer, chromium() as browser:
        trainer.start_worker()
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.set_default_timeout(60_000)
        page.on(
            "console", lambda message: complaints.append(message.text) if message.type == "error" else None
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(trainer.url)
        page.locator("#start [name=dataset] option[value=made]").wait_for(state="attached")
        page.select_option("#start [name=task]", "gender")
        page.fill("#start [name=seeds]", "1")
        page.get_by_role("button", name="Train", exact=True).click()
        card = page.locator("#experiments article")
        card.locator("[data-state=running], .folds progress").first.wait_for()
        assert card.locator(".folds div").count() == 5
        card.locator("polyline").first.wait_for(state="attached", timeout=_LONG)
        page.wait_for_selector("#experiments article[data-state=finished]", timeout=_LONG)
        # Twice five folds, and every curve has the points that the worker reported.
        lines = card.locator("polyline")
        assert lines.count() == 10
        points = [str(lines.nth(index).get_attribute("points")).split() for index in range(10)]
        assert all(len(line) > 3 for line in points)
        table = card.locator("table")
        table.wait_for()
        assert "Gender: accuracy" in table.inner_text()
        rows = table.locator("tbody tr, tr").all_inner_texts()
        assert rows[-1].startswith("mean") and len(rows) == 7
        # Served at once are the folds' banks; what may be better follows, unless it is given up.
        card.get_by_role("button", name="Serve these heads").click()
        card.get_by_text("Training on all faces too: that is served from when it is done").wait_for()
        card.get_by_text("all but 4").wait_for()
        card.get_by_role("button", name="Cancel").click()
        card.get_by_role("button", name="Train on all faces too").click()
        card.get_by_text("all but 4").wait_for()
        assert card.locator(".folds div").count() == 11
        page.wait_for_selector("#experiments article[data-state=finished]", timeout=_LONG)
        assert card.get_by_role("button", name="Train on all faces too").count() == 0
        card.get_by_role("button", name="Serve these heads").click()
        page.get_by_text(re.compile("^Served: [^.]*$")).wait_for()
        overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0, f"the page is {overflow} pixels too wide for a telephone"
        card.get_by_role("link", name="Report").click()
        page.get_by_role("heading", name="Single networks: gender").wait_for()
        assert page.locator("figure svg").count() == 2

        page.goto(trainer.url)
        page.wait_for_selector("#experiments article[data-state=finished] polyline")
        page.get_by_role("button", name="Look for better options first").click()
        search = page.locator("#searches article")
        search.wait_for()
        assert "of 20 settings tried, fold 4 held out" in search.locator(".facts").inner_text()
        search.get_by_role("button", name="Cancel").click()
        page.wait_for_selector("#searches article[data-state=cancelled]")

        # What destroys something asks first: refused, nothing happens.
        questions: list[str] = []
        decisions = [False, True, False, True, True]

        def answer(dialog: "Dialog") -> None:
            questions.append(dialog.message)
            dialog.accept() if decisions[len(questions) - 1] else dialog.dismiss()

        page.on("dialog", answer)
        search.get_by_role("button", name="Delete").click()
        assert search.count() == 1 and "cannot be restored" in questions[0]
        search.get_by_role("button", name="Delete").click()
        search.wait_for(state="detached")

        # Served are now the heads of an experiment on far more faces, as its card states.
        manifest = next(trainer.data_dir.glob("models/gender/*/*/head.json"))
        head = json.loads(manifest.read_text())
        head["version"] = "many-gender"
        head["card"]["data"] = {"sets": ["other"], "sha256": {"other": "x"}, "faces": 19_701}
        shutil.copytree(manifest.parent, manifest.parents[1] / "many-gender")
        (manifest.parents[1] / "many-gender" / "head.json").write_text(json.dumps(head))
        set_current(manifest.parents[1], "many-gender")
        card.get_by_role("button", name="Serve these heads").click()
        page.get_by_text("Nothing was changed.").wait_for()
        assert "19,701 faces" in questions[2] and "600" in questions[2] and "wrong genders" in questions[2]
        card.get_by_role("button", name="Serve these heads").click()
        page.get_by_text(re.compile("^Served: [^.]*$")).wait_for()
        card.get_by_role("button", name="Delete").click()
        page.get_by_text("are served now").wait_for()
        assert card.count() == 1 and len(questions) == 5
    complaints = [one for one in complaints if "409" not in one]  # the browser logs each refusal
    assert complaints == []


def test_page_lists_what_every_extraction_removed_and_why_one_failed(tmp_path: Path) -> None:
    removed = "600 of 604 faces (4 no-face, e.g. a/<b>.jpg)"
    failed = "No face of 'My faces' can be used: 0 of 2 faces (2 image-missing, e.g. x.jpg)."
    with running_trainer(tmp_path) as trainer, chromium() as browser:
        write_embedding_set(
            trainer.data_dir, "faces & more", "images", made_faces(600), {"removed": {}, "summary": removed}
        )
        write_json(
            trainer.data_dir / "My faces" / "made-1" / "extraction-images.json",
            {
                "dataset": "My faces",
                "kind": "labels.csv",
                "variant": "images",
                "space": Space(id="made-1", dimension=32).model_dump(),
                "mirrored": False,
                "shard_size": 960,
                "min_det_score": 0,
                "state": "failed",
                "problem": {"detail": failed},
            },
        )
        (trainer.data_dir / "My faces" / "labels.csv").write_text("file,age\nx.jpg,3\ny.jpg,4\n")
        page = browser.new_page()
        page.goto(trainer.url)
        page.locator("#datasets li").nth(2).wait_for()
        lines = page.locator("#datasets li").all_inner_texts()
        assert f"faces & more/images in made-1: {removed}" in lines
        assert f"My faces/images in made-1: failed. {failed}" in lines
        page.select_option("#start [name=dataset]", "faces & more")


def test_page_shows_a_record_that_cannot_be_read_and_lists_the_others(tmp_path: Path) -> None:
    with running_trainer(tmp_path) as trainer, chromium() as browser:
        for name in ("good", "cut"):
            save_experiment(trainer.data_dir, made_experiment([0], TrainingOptions(), name=name))
        record = trainer.data_dir / "experiments" / "cut" / "experiment.json"
        record.write_bytes(record.read_bytes()[:100])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.goto(trainer.url)
        warning = page.locator("#warnings li")
        warning.wait_for()
        assert "The experiment cut is skipped because" in warning.inner_text()
        assert "Restore the file, or run the release that wrote it." in warning.inner_text()
        assert page.locator("#experiments h2").all_inner_texts() == ["good"]
        overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0, f"the page is {overflow} pixels too wide for a telephone"
        shutil.rmtree(record.parent)
        with page.expect_response("**/health/ready"):
            page.reload()
        page.wait_for_timeout(250)
        assert page.locator("#warnings").is_hidden()

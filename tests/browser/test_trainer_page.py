"""The trainer's page in a real browser, with a real worker: from the form to the served heads."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from agegender.files import write_json
from agegender.heads.head import set_current
from agegender.spaces import Space
from predictor.app import create_predictor
from predictor.settings import PredictorSettings
from trainer.datasets.embedding_set import write_embedding_set
from trainer.experiments.experiment import save_experiment
from trainer.training.config import TrainingOptions

from tests.support.chromium import chromium
from tests.support.embedder_double import SPACE, EmbedderDouble
from tests.support.made_experiment import made_experiment
from tests.support.made_faces import made_faces
from tests.support.made_heads import promoted_heads
from tests.support.made_videos import quartered, write_video
from tests.support.serving import serving
from tests.support.trainer_processes import running_trainer

if TYPE_CHECKING:
    from playwright.sync_api import Dialog, Page

_LONG = 400_000  # ms; a worker shares the machine with the browser


def assert_fits(page: "Page") -> None:
    overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0, f"the page is {overflow} pixels too wide for a telephone"


def drawn_pixels(page: "Page", canvas: str) -> int:
    """Return how many pixels of a canvas are not transparent."""
    count = """(selector) => {
        const canvas = document.querySelector(selector);
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return data.filter((value, index) => index % 4 === 3 && value > 0).length;
    }"""
    return int(page.evaluate(count, canvas))


def test_experiment_is_started_watched_and_served_from_the_page(tmp_path: Path) -> None:
    complaints: list[str] = []
    with running_trainer(tmp_path) as trainer, chromium() as browser:
        trainer.start_worker()
        write_embedding_set(trainer.data_dir, "other", "images", made_faces(300, seed=7), {"kind": "made up"})
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.set_default_timeout(60_000)
        page.on(
            "console", lambda message: complaints.append(message.text) if message.type == "error" else None
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(trainer.url)
        page.get_by_role("tab", name="Runs").click()
        page.locator("#start [name=dataset] option[value=made]").wait_for(state="attached")
        page.select_option("#start [name=dataset]", "made")
        page.select_option("#start [name=task]", "gender")
        page.fill("#start [name=seeds]", "1")
        page.get_by_role("button", name="Train", exact=True).click()
        card = page.locator("#experiments article")
        card.locator("[data-state=running], .folds progress").first.wait_for()
        assert card.locator(".folds div").count() == 5
        page.wait_for_selector("#experiments article[data-state=finished]", timeout=_LONG)
        chart = card.get_by_role("img")
        chart.wait_for()
        # Its description has the last point of every fold; the legend has a line for training, too.
        description = chart.get_attribute("aria-label") or ""
        assert len(re.findall(r"fold \d \d\.\d{3} after epoch \d+", description)) == 5
        assert card.locator(".u-legend .u-series").count() == 10
        assert drawn_pixels(page, "#experiments canvas") > 500
        card.locator(".u-over").hover()
        assert re.match(r"epoch \d+\nfold 0, training \d", card.locator(".tooltip").inner_text())
        card.get_by_text("gender accuracy").wait_for()
        assert card.locator(".figures").get_by_text("600").count() == 1
        # Served at once are the folds' banks; what may be better follows, unless it is given up.
        assert card.locator(".served").is_hidden()
        card.get_by_role("button", name="Serve these heads").click()
        card.get_by_text("Training on all faces too: that is served from when it is done").wait_for()
        card.get_by_text("all but 4").wait_for()
        card.locator(".served").wait_for()
        card.get_by_role("button", name="Cancel").click()
        card.get_by_role("button", name="Train on all faces too").click()
        card.get_by_text("all but 4").wait_for()
        assert card.locator(".folds div").count() == 11
        page.wait_for_selector("#experiments article[data-state=finished]", timeout=_LONG)
        assert card.get_by_role("button", name="Train on all faces too").count() == 0
        card.get_by_role("button", name="Serve these heads").click()
        page.get_by_text(re.compile("^Served: [^.]*$")).wait_for()
        assert_fits(page)
        card.get_by_role("button", name="Report").click()
        rows = page.locator("#report tbody tr")
        rows.nth(5).wait_for()
        assert rows.nth(5).inner_text().startswith("mean") and rows.count() == 6
        assert page.get_by_text("Gender: accuracy").count() == 1
        with page.expect_download() as download:
            page.get_by_role("button", name="Predictions as CSV").click()
        assert len(download.value.path().read_text().splitlines()) == 601
        with page.expect_download() as download:
            page.get_by_role("button", name="Whole report").click()
        assert "Single networks: gender" in download.value.path().read_text()
        assert_fits(page)

        page.goto(f"{trainer.url}/#runs")
        page.reload()
        page.wait_for_selector("#experiments article[data-state=finished] canvas")
        page.select_option("#start [name=dataset]", "made")
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
        assert search.count() == 1 and "can be restored for seven days" in questions[0]
        search.get_by_role("button", name="Delete").click()
        search.get_by_role("button", name="Undo").click()
        page.wait_for_selector("#searches article[data-state=cancelled]")

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

        # The served heads are judged on faces that they never saw.
        page.get_by_role("tab", name="Data").click()
        other = page.locator("#datasets article", has=page.get_by_role("heading", name="other"))
        other.get_by_role("button", name="Judge heads").click()
        other.get_by_label("Calibrate them on these faces").check()
        other.get_by_role("button", name="Start").click()
        judged = page.locator("#evaluations article[data-state=finished]")
        judged.wait_for(timeout=_LONG)
        judged.get_by_text("gender accuracy").wait_for()
        assert judged.get_by_role("heading").inner_text() == "Served heads on other"
        judged.get_by_role("button", name="Serve calibrated heads").click()
        judged.get_by_text("Served: ").wait_for()
    complaints = [one for one in complaints if "409" not in one]  # the browser logs each refusal
    assert complaints == []


def test_video_is_followed_cancelled_and_resumed_and_its_answer_is_saved(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", [np.roll(quartered(), step, axis=1) for step in range(30)])
    promoted_heads(tmp_path / "heads" / "models", SPACE)
    with EmbedderDouble(fault="hang").served() as proxy:
        settings = PredictorSettings(
            data_dir=tmp_path / "heads", heads_dir=tmp_path / "none", proxy_url=proxy.url
        )
        with (
            serving(create_predictor(settings)) as predictor,
            running_trainer(tmp_path, PREDICTOR_URL=predictor) as trainer,
            chromium() as browser,
        ):
            trainer.start_worker()
            sent = trainer.http.post(
                "/videos",
                files={"file": ("my film.mp4", clip.read_bytes())},
                params={"segment_seconds": 2, "annotated": True},
            )
            assert sent.status_code == 202, sent.text
            page = browser.new_page(viewport={"width": 390, "height": 800})
            page.set_default_timeout(60_000)
            complaints: list[str] = []
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.goto(f"{trainer.url}/#runs")
            card = page.locator("#videos article")
            page.wait_for_selector("#videos article[data-state=running]", timeout=_LONG)
            assert card.get_by_role("heading").inner_text() == "my film.mp4"
            assert "96 x 64 pixels, 3 s" in card.locator(".facts").inner_text()
            assert card.get_by_role("progressbar").get_attribute("max") == "2"
            assert card.locator(".progress span").inner_text().startswith("0 of 2 segments")
            assert card.get_by_role("button").all_inner_texts() == ["Cancel"]
            card.get_by_role("button", name="Cancel").click()
            page.wait_for_selector("#videos article[data-state=cancelled]")
            proxy.fault = None
            proxy.released.set()
            card.get_by_role("button", name="Resume").click()
            page.wait_for_selector("#videos article[data-state=finished]", timeout=_LONG)
            assert card.locator(".figures div").first.inner_text().split() == ["persons", "1"]
            assert card.locator(".progress").is_hidden()
            with page.expect_download() as download:
                card.get_by_role("button", name="Persons as CSV").click()
            assert download.value.suggested_filename == "my film-persons.csv"
            (person,) = csv.DictReader(download.value.path().read_text().splitlines())
            assert person["first"] == "0.0"
            with page.expect_download() as download:
                card.get_by_role("button", name="Labelled video").click()
            assert download.value.path().read_bytes()[4:8] == b"ftyp"
            with page.expect_download() as download:
                card.get_by_role("button", name="Report").click()
            assert "Persons over time" in download.value.path().read_text()
            assert_fits(page)
            questions: list[str] = []

            def answer(dialog: "Dialog") -> None:
                questions.append(dialog.message)
                dialog.accept() if len(questions) == 2 else dialog.dismiss()

            page.on("dialog", answer)
            card.get_by_role("button", name="Delete").click()
            assert card.count() == 1 and "and the uploaded video? It cannot be restored." in questions[0]
            card.get_by_role("button", name="Delete").click()
            card.wait_for(state="detached")
            assert trainer.http.get("/videos").json() == []
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
        page.locator("article", has_text="faces & more").get_by_role("button", name="Train").click()
        page.locator("#start").wait_for()
        assert page.locator("#start [name=dataset]").input_value() == "faces & more"


def test_page_shows_a_record_that_cannot_be_read_and_lists_the_others(tmp_path: Path) -> None:
    with running_trainer(tmp_path) as trainer, chromium() as browser:
        for name in ("good", "cut"):
            save_experiment(trainer.data_dir, made_experiment([0], TrainingOptions(), name=name))
        record = trainer.data_dir / "experiments" / "cut" / "experiment.json"
        record.write_bytes(record.read_bytes()[:100])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.goto(f"{trainer.url}/#runs")
        warning = page.locator("#warnings li")
        warning.wait_for()
        assert "The experiment cut is skipped because" in warning.inner_text()
        assert "Restore the file, or run the release that wrote it." in warning.inner_text()
        page.locator("#experiments h2").first.wait_for()
        assert page.locator("#experiments h2").all_inner_texts() == ["good"]
        assert_fits(page)
        shutil.rmtree(record.parent)
        with page.expect_response("**/health/ready"):
            page.reload()
        page.wait_for_timeout(250)
        assert page.locator("#warnings").is_hidden()

"""The command line lists data sets and follows their extractions."""

import io
import json
from urllib.parse import parse_qsl

import pytest
from agegender.errors import Problem

from tests.support.command_line import SPACE, Run, events
from tests.support.service_double import Service, json_answer

DATASET = {
    "name": "Adience",
    "kind": "Adience",
    "variants": ["aligned"],
    "importable": [],
    "extracted": [
        {"space": SPACE, "variant": "aligned", "faces": 17055, "meta_data": {"removed": {"no-face": 9}}}
    ],
    "extractions": [],
}
EXTRACTION = {"dataset": "Adience", "variant": "aligned", "space": SPACE, "state": "finished", "images": 10}


def test_data_sets_are_listed_and_printed_as_json(trainer: Service, run: Run) -> None:
    trainer.will_answer([DATASET], [DATASET], DATASET)
    code, out, _ = run("datasets")
    assert code == 0 and "Adience" in out and "17,055" in out
    code, out, _ = run("datasets", "--json")
    assert json.loads(out)[0]["extracted"][0]["faces"] == 17055
    _, out, _ = run("datasets", "Adience")
    assert "no-face" in out and trainer.requests[-1][1] == "/datasets/Adience"


def test_extraction_is_followed_to_its_end(trainer: Service, run: Run) -> None:
    running = {**EXTRACTION, "state": "extracting", "progress": {"done": 4, "total": 10}}
    other = {**EXTRACTION, "variant": "faces", "state": "failed"}
    trainer.will_answer(running, events(running, other, EXTRACTION))
    code, out, _ = run("extract", "Adience", "--variant", "aligned", "--mirrored")
    assert code == 0 and "agegender train Adience" in out
    assert json.loads(trainer.requests[0][3]) == {"image_set": "aligned", "mirrored": True}


def test_data_set_of_cropped_faces_is_extracted_whole(trainer: Service, run: Run) -> None:
    trainer.will_answer(EXTRACTION, EXTRACTION)
    run("extract", "Adience", "--faces", "whole", "--no-wait")
    run("extract", "Adience", "--no-wait")
    bodies = [json.loads(request[3]) for request in trainer.requests]
    assert [body.get("faces") for body in bodies] == ["whole", None]


def test_extractions_are_cancelled_deleted_and_imported(trainer: Service, run: Run) -> None:
    cancelled = {**EXTRACTION, "state": "cancelled"}
    trainer.will_answer([cancelled], [cancelled], EXTRACTION, events(EXTRACTION))
    code, out, _ = run("cancel-extraction", "Adience")
    assert code == 0 and "Adience/aligned" in out and "cancelled" in out
    assert "1 extraction of Adience" in run("delete-extraction", "Adience")[1]
    assert run("import", "Adience", "--image-set", "aligned", "--replace")[0] == 0
    assert [(method, path) for method, path, *_ in trainer.requests] == [
        ("POST", "/datasets/Adience/cancel"), ("DELETE", "/datasets/Adience/extract"),
        ("POST", "/datasets/Adience/import"), ("GET", "/datasets/Adience/events"),
    ]  # fmt: skip
    assert json.loads(trainer.requests[2][3]) == {"image_set": "aligned", "replace": True}


LABELS = {
    "dataset": "My faces",
    "format": "table",
    "source": ["people.csv"],
    "file_column": "photo",
    "age_column": "years",
    "gender_column": "sex",
    "genders": {"0": "female", "1": "male", "9": None},
    "examples": [
        {"file": "x/a[b].jpg", "cells": {"years": "25", "sex": "0"}, "age": "25", "gender": "female"},
        {"file": "c.jpg", "cells": {"years": "?", "sex": "1"}, "problem": "image-missing"},
    ],
    "rows": 300,
    "usable": 299,
    "summary": "299 of 300 rows (1 image-missing, e.g. c.jpg)",
    "problems": ["1 rows name files that are not in the folder."],
}  # fmt: skip
WRITTEN = {**LABELS, "written": "labels.csv", "removed_file": "labels.removed.csv"}
NOT_FOUND = Problem("not-found", 404, "There is no data set named 'My faces'.").document()


def test_labels_are_shown_confirmed_and_written(trainer: Service, run: Run) -> None:
    trainer.will_answer(LABELS, WRITTEN)
    code, out, err = run("import", "My faces", "--age-column", "years", "--map", "0=female,1=male", "--yes")
    assert code == 0, err
    for text in (
        "people.csv",
        "file = photo, age = years, gender = sex",
        "9 = ?",
        "x/a[b].jpg",
        "image-missing",
    ):
        assert text in out
    assert f"Wrote My faces/labels.csv: {LABELS['summary']}: My faces/labels.removed.csv. Next:" in out
    assert "agegender extract 'My faces'" in out
    assert "1 rows name files" in err
    assert [request[:2] for request in trainer.requests] == [
        ("GET", "/datasets/My faces/labels"),
        ("POST", "/datasets/My faces/labels"),
    ]
    options = {"age_column": "years", "map": "0=female,1=male"}
    assert dict(parse_qsl(trainer.queries[0])) == options
    assert json.loads(trainer.requests[1][3]) == options


def test_labels_are_not_written_without_confirmation_or_usable_rows(
    trainer: Service, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.will_answer(LABELS)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert run("import", "hf:My faces")[0] == 1
    assert trainer.queries == ["hugging_face=true"]
    counts = "0 of 300 rows (300 gender-not-mapped, e.g. a.jpg)"
    trainer.will_answer({**LABELS, "usable": 0, "summary": counts})
    code, _, err = run("import", "My faces", "--gender-column", "sex", "--yes")
    assert code == 1 and "Nothing was written: 0 of 300 rows (300 gender-not-mapped" in err
    assert [method for method, *_ in trainer.requests] == ["GET", "GET"]


def test_a_folder_that_is_no_data_set_yet_is_imported(trainer: Service, run: Run) -> None:
    trainer.will_answer(json_answer(NOT_FOUND, 404), LABELS, WRITTEN)
    code, out, _ = run("import", "My faces", "--json")
    assert code == 0 and json.loads(out)["written"] == "labels.csv"
    assert trainer.requests[1][1] == "/datasets/My faces/labels"


def test_labels_are_exported(trainer: Service, run: Run) -> None:
    trainer.will_answer(
        {"dataset": "My faces", "written": "metadata.csv", "rows": 3, "summary": "3 of 3 rows"}
    )
    code, out, _ = run("export-labels", "My faces", "--replace")
    assert code == 0 and "Wrote My faces/metadata.csv: 3 of 3 rows." in out
    assert (trainer.requests[0][1], trainer.queries) == ("/datasets/My faces/labels/export", ["replace=true"])


def test_extraction_that_fails_ends_with_four_and_the_reason(trainer: Service, run: Run) -> None:
    failed = {**EXTRACTION, "state": "failed", "problem": {"detail": "the disk is full"}}
    trainer.will_answer(EXTRACTION, events(failed))
    code, _, err = run("extract", "Adience")
    assert code == 4 and "the disk is full" in err


SUMMARY = "295 of 300 faces (4 no-face, e.g. a/[b].jpg; 1 age-out-of-range, e.g. c.jpg)"


def test_extraction_ends_with_what_was_removed_and_why(trainer: Service, run: Run) -> None:
    ended = {**EXTRACTION, "dataset": "My faces", "summary": SUMMARY}
    listed = {**ended, "removed_file": "My faces/human-2/removed-images.jsonl"}
    trainer.will_answer(ended, events(listed))
    code, out, _ = run("extract", "My faces", "--gender", "0=male", "--gender", "1=female")
    assert code == 0 and f"{SUMMARY}: My faces/human-2/removed-images.jsonl. Next" in out
    assert "agegender train 'My faces'" in out
    paths = [request[1] for request in trainer.requests]
    assert paths == ["/datasets/My faces/extract", "/datasets/My faces/events"]
    assert json.loads(trainer.requests[0][3])["genders"] == {"0": "male", "1": "female"}


def test_extraction_without_a_face_fails_with_what_was_removed_and_why(trainer: Service, run: Run) -> None:
    problem = {"detail": f"No face of 'Adience' can be used: {SUMMARY}. Look [here]."}
    failed = {**EXTRACTION, "state": "failed", "summary": SUMMARY, "problem": problem}
    trainer.will_answer(EXTRACTION, events(failed))
    code, _, err = run("extract", "Adience")
    assert code == 4 and problem["detail"] in err and err.count(SUMMARY) == 1
    cancelled = {**EXTRACTION, "state": "cancelled", "summary": SUMMARY}
    trainer.will_answer(EXTRACTION, events(cancelled))
    code, _, err = run("extract", "Adience")
    assert code == 4 and "cancelled" in err and SUMMARY in err


def test_list_of_data_sets_has_what_was_removed_and_why_it_failed(
    trainer: Service, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    extracted = {"space": SPACE, "variant": "aligned", "faces": 295, "summary": SUMMARY}
    failed = {
        **EXTRACTION,
        "variant": "faces",
        "state": "failed",
        "problem": {"detail": "the disk is [full]"},
    }
    trainer.will_answer([{**DATASET, "extracted": [extracted], "extractions": [failed]}])
    code, out, _ = run("datasets")
    assert code == 0 and SUMMARY.removeprefix("295 of ") in out and "the disk is [full]" in out


@pytest.mark.parametrize("option", ["0", "0=x", "=male", "0=Male"])
def test_gender_that_maps_to_nothing_is_wrong_usage(trainer: Service, run: Run, option: str) -> None:
    code, _, err = run("extract", "Adience", "--gender", option)
    assert code == 2 and "0=male" in err and not trainer.requests

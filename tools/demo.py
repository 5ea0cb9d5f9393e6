"""`make demo`: the whole chain on this machine, from a photograph to heads of one's own."""

import csv
import io
import os
import random
import shutil
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import httpx
import insightface
import numpy as np
from agegender.datasets import EmbeddingSet, write_embedding_set
from agegender.spaces import Space

from tools.stack import RESEARCH_DATA, ROOT, Stack, StackError, free_ports

PHOTOGRAPH = Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"
RUN = ROOT / ".run" / "demo"
FACES = 1500
SYNTHETIC = "synthetic"
REQUEST = {"task": "age-gender", "seeds": 3, "optimizer": {"epochs": 20}}


def main() -> None:
    started = time.monotonic()
    shutil.rmtree(RUN, ignore_errors=True)
    stack = Stack(RUN / "data", RUN, free_ports(), workers=max(1, min(4, os.cpu_count() or 1)))
    try:
        say("starting the services")
        stack.start()
        stack.wait_ready()
        say(f"predicting on {PHOTOGRAPH.name} with the heads that come with the program")
        show_faces(predict(stack))
        dataset = sampled_faces(stack) or made_up_faces(stack)
        say("training age and gender: five folds, three networks each, as queue jobs")
        experiment = train(stack, dataset)
        show_tables(stack, experiment)
        say("promoting the new heads; the predictor takes them over without a restart")
        url = f"{stack.url('trainer')}/experiments/{experiment}/promote"
        versions = httpx.post(url, params={"refit": False}, timeout=60)
        versions.raise_for_status()
        answer = predicted_by(stack, set(versions.json().values()))
        if dataset == SYNTHETIC:
            print("  Heads that have seen random numbers and no face: what they say here is nonsense.")
        show_faces(answer)
        annotated = ROOT / ".run" / "demo.jpg"
        annotated.write_bytes(predict_picture(stack))
        say(f"the annotated picture is {annotated.relative_to(ROOT)}")
    except (StackError, httpx.HTTPError, RuntimeError) as error:
        stack.stop()
        sys.exit(f"error: {error}\nlogs: {RUN / 'logs'}")
    stack.stop()
    print(
        f"\nDone in {time.monotonic() - started:.0f} s. Nothing of yours was changed: "
        "the demo has its own data in .run/demo.\n\nWhat to try next:\n"
        "  make up                      then open http://127.0.0.1:10003 and drop a picture\n"
        "  curl -F image=@photo.jpg http://127.0.0.1:10003/age-gender\n"
        "  docs/datasets.md             train on Adience, or on a folder of your own faces"
    )


def say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m", flush=True)


def predict(stack: Stack) -> dict[str, Any]:
    with PHOTOGRAPH.open("rb") as file:
        answer = httpx.post(f"{stack.url('predictor')}/age-gender", files={"image": file}, timeout=60)
    if answer.is_error:
        raise RuntimeError(answer.json().get("detail", answer.text))
    return dict(answer.json())


def predict_picture(stack: Stack) -> bytes:
    with PHOTOGRAPH.open("rb") as file:
        answer = httpx.post(
            f"{stack.url('predictor')}/age-gender",
            files={"image": file},
            headers={"Accept": "image/jpeg"},
            timeout=60,
        )
    answer.raise_for_status()
    return answer.content


def predicted_by(stack: Stack, versions: set[str]) -> dict[str, Any]:
    """The answer as soon as it comes from those heads."""
    for _ in range(60):
        models = httpx.get(f"{stack.url('predictor')}/models").text
        if all(version in models for version in versions):
            return predict(stack)
        time.sleep(0.5)
    raise RuntimeError("the predictor did not take the new heads over within 30 s")


def show_faces(answer: dict[str, Any]) -> None:
    print(f"  {'face':<6}{'age':>6}   {'90 % interval':<16}{'group':<8}{'gender':<8}{'sure':>6}")
    for number, face in enumerate(answer["images"][0]["faces"], 1):
        age, gender = face["age"], face["gender"]
        low, high = age["interval"]
        sure = gender["probability"][gender["label"]]
        print(
            f"  {number:<6}{age['mean']:>6.1f}   {f'{low:.0f} to {high:.0f}':<16}{age['group']:<8}"
            f"{gender['label']:<8}{sure:>6.1%}"
        )


def sampled_faces(stack: Stack) -> str | None:
    """Copy a sample of UTKFace into the demo's data folder and extract it; None where it is not at hand."""
    archive = RESEARCH_DATA / "utkface.tar"
    if not archive.is_file():
        return None
    say(f"extracting the embeddings of {FACES} UTKFace faces")
    target = stack.data_dir / "utkface-sample"
    target.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        labels = tar.extractfile("utkface/labels.csv")
        assert labels is not None
        rows = list(csv.DictReader(io.TextIOWrapper(labels)))
        chosen = {row["file"]: row for row in random.Random(0).sample(rows, FACES)}
        for member in tar:
            name = member.name.removeprefix("utkface/")
            if name in chosen and (file := tar.extractfile(member)) is not None:
                (target / name).write_bytes(file.read())
    with (target / "labels.csv").open("w", newline="") as table:
        writer = csv.DictWriter(table, ["file", "age", "gender"])
        writer.writeheader()
        writer.writerows(chosen.values())
    trainer = stack.url("trainer")
    answer = httpx.post(f"{trainer}/datasets/{target.name}/extract", timeout=30)
    if answer.is_error:
        raise RuntimeError(answer.json().get("detail", answer.text))
    while True:
        status = httpx.get(f"{trainer}/datasets/{target.name}", timeout=30).json()["extractions"][0]
        done = status["progress"]
        print(f"\r  {done['done']} of {FACES} images", end="", flush=True)
        if status["state"] not in ("planning", "extracting", "merging"):
            print()
            if status["state"] != "finished":
                raise RuntimeError(f"extraction {status['state']}: {status.get('problem')}")
            return target.name
        time.sleep(0.5)


def made_up_faces(stack: Stack) -> str:
    """Random embeddings with ages and genders in them, where no faces are at hand."""
    say("no labelled faces here (AGEGENDER_DATA): using SYNTHETIC embeddings, made of random numbers")
    print("  The figures below show that the machinery works, and nothing about faces.")
    space = Space.model_validate(httpx.get(f"{stack.url('embedder-proxy')}/info").json()["space"])
    draws = np.random.default_rng(0)
    age = draws.integers(1, 90, FACES).astype(np.float32)
    gender = draws.integers(0, 2, FACES).astype(np.int8)
    signal = np.stack([age / 45 - 1, np.sin(age / 15), gender * 2.0 - 1], axis=1)
    points = signal @ draws.standard_normal((3, space.dimension)) / 2
    points += draws.standard_normal((FACES, space.dimension))
    write_embedding_set(
        stack.data_dir,
        SYNTHETIC,
        "made-up",
        EmbeddingSet(
            space=space,
            file=np.array([f"{number}.none" for number in range(FACES)]),
            embedding=(points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32),
            age_low=age,
            age_high=age,
            gender=gender,
            subject=np.arange(FACES).astype(str),
            fold=(np.arange(FACES) % 5).astype(np.int16),
            embedding_mirrored=np.empty((0, space.dimension), np.float32),
        ),
        {"kind": "synthetic: random numbers, no faces"},
    )
    return SYNTHETIC


def train(stack: Stack, dataset: str) -> str:
    url = f"{stack.url('trainer')}/experiments"
    answer = httpx.post(url, json={**REQUEST, "dataset": dataset}, timeout=30)
    if answer.is_error:
        raise RuntimeError(answer.json().get("detail", answer.text))
    experiment = str(answer.json()["id"])
    while True:
        status = httpx.get(f"{url}/{experiment}", timeout=30).json()
        told = "  ".join(f"fold {fold['fold']}: {_told(fold)}" for fold in status["folds"])
        print(f"\r  {told:<110}", end="", flush=True)
        if status["state"] == "finished":
            print()
            return experiment
        if status["state"] not in ("queued", "running"):
            raise RuntimeError(f"the experiment {status['state']}: {status}")
        time.sleep(0.5)


def _told(fold: dict[str, Any]) -> str:
    return f"epoch {fold['epoch']}" if fold["state"] == "running" else str(fold["state"])


def show_tables(stack: Stack, experiment: str) -> None:
    url = f"{stack.url('trainer')}/experiments/{experiment}/report"
    report = httpx.get(url, params={"format": "json"}, timeout=30).json()
    print(f"\n  {'':<10}{'left-out fold':<15}{'train':>8}{'val':>8}{'test':>8}")
    for task, rows in report["tables"].items():
        for row in rows:
            figures = "".join(f"{row[split]:>8.4f}" for split in ("train", "validation", "test"))
            print(f"  {task:<10}{row['fold']:<15}{figures}")
    age, gender = report["out_of_fold"]["age"], report["out_of_fold"]["gender"]
    print(
        f"\n  out of fold, as ensembles: mean age error {age['mae']:.2f} years, gender right "
        f"{gender['accuracy']:.1%}, {age['coverage']:.1%} of the ages inside their 90 % interval"
    )


if __name__ == "__main__":
    main()

"""`make demo`: the whole system on this machine, from a photograph to heads of your own."""

import csv
import io
import json
import os
import random
import shutil
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
from agegender import display
from agegender.errors import Problem
from agegender.predictions import AgeGenderAnswer, ImageAnswer
from agegender.spaces import Space
from agegender_client import Client, ClientSettings
from agegender_client.responses import Extraction, Fold
from trainer.datasets.embedding_set import EmbeddingSet, write_embedding_set

from tools.stack import PHOTOGRAPH, RESEARCH_DATA, ROOT, Stack, StackError, free_ports

RUN = ROOT / ".run" / "demo"
FACES = 1500  # of UTKFace
MADE_UP_FACES = 600  # figures of random numbers mean nothing, so that a minute less is better
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
        with client_of(stack) as client:
            from_photograph_to_own_heads(client, stack.data_dir)
    except (StackError, Problem, RuntimeError) as error:
        stack.stop()
        sys.exit(f"error: {error}\nlogs: {RUN / 'logs'}")
    stack.stop()
    print(
        f"\nDone in {time.monotonic() - started:.0f} s. The demo keeps its own data in .run/demo and changed "
        "nothing else.\n\nWhat to try next:\n"
        "  make up                      then open http://127.0.0.1:10003 and drop an image\n"
        "  curl -F image=@photo.jpg http://127.0.0.1:10003/age-gender\n"
        "  docs/datasets.md             train on Adience, or on a folder of your own faces"
    )


def say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m", flush=True)


def client_of(stack: Stack) -> Client:
    return Client(
        ClientSettings(
            predictor_url=stack.url("predictor"),
            trainer_url=stack.url("trainer"),
            proxy_url=stack.url("embedder-proxy"),
        )
    )


def from_photograph_to_own_heads(client: Client, data_dir: Path) -> None:
    photograph = PHOTOGRAPH.read_bytes()
    say(f"predicting on {PHOTOGRAPH.name} with the shipped heads")
    answer = client.predict([photograph])
    show_faces(answer)
    dataset = sampled_faces(client, data_dir) or made_up_faces(data_dir, answer.space)
    say("training age and gender: five folds of three networks, as queue jobs")
    experiment = train(client, dataset)
    show_tables(client, experiment)
    say("promoting the new heads; the predictor loads them without a restart")
    versions = client.promote(experiment, refit=False, force=True)  # trained on few faces
    answer = predicted_by(client, photograph, set(versions.values()))
    if dataset == SYNTHETIC:
        print("  These heads were trained on random numbers, so their predictions are meaningless.")
    show_faces(answer)
    annotated = ROOT / ".run" / "demo.png"
    annotated.write_bytes(client.annotate(photograph))
    say(f"the annotated image is {annotated.relative_to(ROOT)}")


def predicted_by(client: Client, photograph: bytes, versions: set[str]) -> AgeGenderAnswer:
    """Return the answer as soon as the predictor uses these heads. Raises RuntimeError after 30 s."""
    for _ in range(60):
        if versions <= {head.version for head in client.models().models}:
            return client.predict([photograph])
        time.sleep(0.5)
    raise RuntimeError("the predictor did not load the new heads within 30 s")


def show_faces(answer: AgeGenderAnswer) -> None:
    (image,) = answer.images
    assert isinstance(image, ImageAnswer)  # the client raises the problem of a single image
    print(f"  {'face':<6}{'age':>6}   {'90 % interval':<16}{'group':<8}{'gender':<8}{'sure':>6}")
    for number, face in enumerate(image.faces, 1):
        age, gender = face.age, face.gender
        low, high = display.interval(age.interval)
        print(
            f"  {number:<6}{age.mean:>6.1f}   {f'{low} to {high}':<16}{age.group:<8}"
            f"{gender.label:<8}{gender.probability[gender.label]:>6.1%}"
        )


def sampled_faces(client: Client, data_dir: Path) -> str | None:
    """Copy a sample of UTKFace into the demo's data folder and extract it; None if it is not available."""
    archive = RESEARCH_DATA / "utkface.tar"
    if not archive.is_file():
        return None
    say(f"extracting the embeddings of {FACES} UTKFace faces")
    target = data_dir / "utkface-sample"
    target.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        labels = tar.extractfile("utkface/labels.csv")
        assert labels is not None
        rows = list(csv.DictReader(io.TextIOWrapper(labels)))
        sample = {row["file"]: row for row in random.Random(0).sample(rows, FACES)}
        for member in tar:
            name = member.name.removeprefix("utkface/")
            if name in sample and (file := tar.extractfile(member)) is not None:
                (target / name).write_bytes(file.read())
    with (target / "labels.csv").open("w", newline="") as table:
        writer = csv.DictWriter(table, ["file", "age", "gender"])
        writer.writeheader()
        writer.writerows(sample.values())
    client.extract(target.name)
    last: Extraction | None = None
    for last in client.watch_extraction(target.name):
        print(f"\r  {last.progress.done} of {FACES} images", end="", flush=True)
    print()
    if last is None or last.state != "finished":
        raise RuntimeError(f"the extraction {last and (last.state, last.problem)}")
    return target.name


def made_up_faces(data_dir: Path, space: Space) -> str:
    """Write random embeddings that depend on age and gender, as a substitute for labelled faces."""
    say("no labelled faces found (AGEGENDER_DATA): using SYNTHETIC embeddings made of random numbers")
    print("  The metrics below show that the system works; they mean nothing about faces.")
    draws = np.random.default_rng(0)
    age = draws.integers(1, 90, MADE_UP_FACES).astype(np.float32)
    gender = draws.integers(0, 2, MADE_UP_FACES).astype(np.int8)
    signal = np.stack([age / 45 - 1, np.sin(age / 15), gender * 2.0 - 1], axis=1)
    points = signal @ draws.standard_normal((3, space.dimension)) / 2
    points += draws.standard_normal((MADE_UP_FACES, space.dimension))
    write_embedding_set(
        data_dir,
        SYNTHETIC,
        "made-up",
        EmbeddingSet(
            space=space,
            file=np.array([f"{number}.none" for number in range(MADE_UP_FACES)]),
            embedding=(points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32),
            age_low=age,
            age_high=age,
            gender=gender,
            subject=np.arange(MADE_UP_FACES).astype(str),
            fold=(np.arange(MADE_UP_FACES) % 5).astype(np.int16),
            embedding_mirrored=np.empty((0, space.dimension), np.float32),
        ),
        {"format": "synthetic: random numbers, no faces"},
    )
    return SYNTHETIC


def train(client: Client, dataset: str) -> str:
    created = experiment = client.create_experiment({**REQUEST, "dataset": dataset})
    for experiment in client.watch(created.id):
        folds = "  ".join(f"fold {fold.fold}: {_progress(fold)}" for fold in experiment.folds)
        print(f"\r  {folds:<110}", end="", flush=True)
    print()
    if experiment.state != "finished":
        raise RuntimeError(f"the experiment {experiment.state}: {experiment}")
    return experiment.id


def _progress(fold: Fold) -> str:
    return f"epoch {fold.epoch}" if fold.state == "running" else fold.state


def show_tables(client: Client, experiment: str) -> None:
    report = json.loads(client.report(experiment))
    print(f"\n  {'':<10}{'held-out fold':<15}{'train':>8}{'val':>8}{'test':>8}")
    for task, rows in report["tables"].items():
        for row in rows:
            metrics = "".join(f"{row[split]:>8.4f}" for split in ("train", "validation", "test"))
            print(f"  {task:<10}{row['fold']:<15}{metrics}")
    age, gender = report["out_of_fold"]["age"], report["out_of_fold"]["gender"]
    print(
        f"\n  out of fold, as ensembles: mean absolute age error {age['mae']:.2f} years, gender accuracy "
        f"{gender['accuracy']:.1%}, coverage of the 90 % intervals {age['coverage']:.1%}"
    )


if __name__ == "__main__":
    main()

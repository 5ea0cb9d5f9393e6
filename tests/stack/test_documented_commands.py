"""Every command of README and docs is run as it stands there, or it is written down here why not.

Run against what `make up` starts, on ports of its own: only port numbers and the word ID are changed.
"""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image, ImageEnhance
from trainer.datasets.formats import published

from tests.support.documented import ROOT, documented_commands, readme_code
from tests.support.serving import until
from tests.support.system import SIX_ADULTS
from tools.machine import PORTS, variable
from tools.stack import free_ports

HERE = "test_make_demo"
SERVED = "`make up`, with two workers, is what the commands here are run against"
# How each command is run: here, in another test, or not, with the reason.
HOW: dict[str, str] = {
    "make demo": HERE,
    "make up": SERVED,
    "make down": SERVED,
    "make doctor": "tests/unit/test_doctor.py",
    "docker compose up --build": "tests/compose/conftest.py",
    "docker compose up -d --scale trainer-worker=4 --scale insightface=3": "tests/compose/conftest.py",
    "docker compose run --rm data-init": "tests/unit/test_data_init.py",
    "WORKERS=4 make up": SERVED,
    "docker compose build": "tests/compose/conftest.py",
    "make setup": "tests/unit/test_doctor.py",
    "agegender video film.mp4 --csv persons.csv --annotate labelled.mp4 --summary persons.svg": (
        "tests/stack/test_video.py"
    ),
    "tar -czf backup.tar.gz --exclude='.*.part' -C data . || [ $? -eq 1 ]": "tests/stack/test_backup.py",
    "mkdir -p data && tar -xzf backup.tar.gz -C data": "tests/stack/test_backup.py",
}
NOT_RUN: dict[str, str] = {
    "make test": "runs this test",
    "curl -F file=@film.mp4": "tests/stack/test_videos.py uploads a video and reads its answer",
    "curl http://localhost:10004/videos/ID": "the same",
    "curl 'http://localhost:10004/videos/ID": "the same",
    "curl -X DELETE http://localhost:10004/videos/ID": "tests/contract/test_trainer_videos.py deletes one",
    ".venv/bin/agegender evaluate our-faces": "tests/contract/test_trainer_evaluations.py evaluates",
    ".venv/bin/agegender calibrate our-faces": "the same",
    ".venv/bin/agegender promote THE_EVALUATION_ID": "the same",
    "curl -F file=@faces.zip": "tests/contract/test_trainer_uploads.py uploads archives",
    ".venv/bin/agegender compare FIRST_ID": "needs two runs: tests/contract/test_trainer_comparison.py",
    "docker save": "writes the images, gigabytes",
    "docker load": "reads what docker save wrote",
    "docker compose up -d --no-build": "tests/compose/conftest.py starts what it built in the same way",
    "python3.11 -m pip download": "collects every package, half a gigabyte and more; tried by hand",
    'PIP_NO_INDEX=1 PIP_FIND_LINKS="$PWD/wheels" make up': "needs the packages of the command before",
    "agegender search Adience": "an hour of trials; tests/stack/test_searches.py runs a small search",
    "agegender train Adience --search": "needs that search; the same test trains with one",
    "docker run -d --init": "needs a second machine; tests/compose runs two workers",
    "kubectl": "needs a cluster; tests/unit/test_kubernetes.py validates what it would apply",
    "useradd --system": "needs a running systemd; tests/unit/test_systemd.py checks the unit",
    "cp -r . /opt/age-gender": "the same",
    "cp deploy/systemd/age-gender.service": "the same",
    "systemctl enable --now age-gender": "the same",
    "cat >> .env": "the settings are those of tests/stack/test_keyed_system.py",
    "python -m benchmarks.accuracy": "needs UTKFace; tests/unit/test_shift.py runs its parts",
    "agegender extract utkface": "UTKFace's and All-Age-Faces' licences allow no copy here",
    ".venv/bin/agegender extract utkface": "the same",
    ".venv/bin/agegender extract all-age-faces": "the same",
    ".venv/bin/agegender promote THE_ID_ANSWERED": "the same; tests/stack/test_experiments.py promotes",
    "curl -H 'Content-Type: application/json' --data @docs": "the same; tests/unit/test_recipes.py reads it",
}
# As the command line and the trainer's API name a new experiment.
_EXPERIMENT = re.compile(r'agegender promote (\S+)|"id": ?"(\d{8}-\d{6}-[\w-]+)"')
AGES = ((0, 2), (4, 6), (8, 12), (25, 32), (38, 43), (60, 100))
TRIES = 4  # images of each of the six people


def how(command: str) -> str | None:
    """Return how the tables treat a command; None if they do not name it, so that it is run here."""
    if command in HOW:
        return HOW[command]
    return next((reason for start, reason in NOT_RUN.items() if command.startswith(start)), None)


def test_tables_name_only_commands_that_are_documented() -> None:
    texts = [command.text for command in documented_commands()]
    assert not [text for text in HOW if text not in texts]
    assert not [start for start in NOT_RUN if not any(text.startswith(start) for text in texts)]


@pytest.mark.parametrize("place", sorted({place for place in HOW.values() if place.startswith("tests/")}))
def test_place_that_runs_a_command_is_there(place: str) -> None:
    assert (ROOT / place).is_file()


def test_make_demo() -> None:
    done = subprocess.run(
        ["make", "demo"],
        cwd=ROOT,
        env={**os.environ, "AGEGENDER_DATA": "/nowhere"},  # made-up faces: seconds instead of a minute
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "out of fold, as ensembles" in done.stdout
    assert "promoting the new heads" in done.stdout
    assert "What to try next" in done.stdout


class Terminal:
    """A shell in a folder that has what the docs speak of: photo.jpg, data, .venv."""

    def __init__(self, folder: Path, ports: dict[str, int], environment: dict[str, str]) -> None:
        self.folder = folder
        self.ports = ports
        self.environment = environment
        self.experiment = "ID"

    def run(self, command: str) -> str:
        if self.experiment == "ID" and re.search(r"\bID\b", command):
            self._train()
        numbers = {number: self.ports[name] for name, number in PORTS.items()}
        text = re.sub(r"(?<=:)1000[1-5]\b", lambda found: str(numbers[int(found[0])]), command)
        # Two dozen images make worse heads than those served, which a reader would be asked about.
        text = text.replace("promote ID", "promote --force ID").replace("ID/promote", "ID/promote?force=true")
        text = re.sub(r"\bID\b", self.experiment, text)
        done = subprocess.run(
            ["bash", "-c", text],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            timeout=900,
            check=False,
        )
        output = done.stdout.decode(errors="replace")
        assert done.returncode == 0, f"{text}\n{output[-2000:]}\n{done.stderr.decode()[-2000:]}"
        self._remember(command, output + done.stderr.decode())
        return output

    def _train(self) -> None:
        """Make the experiment that a page means whose reader has followed another page before."""
        self.run(".venv/bin/agegender extract Adience")
        self.run(".venv/bin/agegender train Adience")
        assert self.experiment != "ID"

    def _remember(self, command: str, output: str) -> None:
        """The ID that is meant next, and wait as the reader would."""
        if found := _EXPERIMENT.search(output):
            self.experiment = found[1] or found[2]
        trainer = f"http://127.0.0.1:{self.ports['trainer']}"
        if "/extract" in command or command.endswith("/experiments"):
            until(lambda: self._is_over(trainer), "the job is over", 900)

    def _is_over(self, trainer: str) -> bool:
        datasets = httpx.get(f"{trainer}/datasets", timeout=60).json()
        going = json.dumps([datasets, httpx.get(f"{trainer}/experiments", timeout=60).json()])
        return not re.search(r'"state": ?"(?:planning|extracting|merging|queued|running)"', going)


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    pid_file = ROOT / ".run" / "up" / "supervisord.pid"
    if pid_file.exists():
        pytest.skip("make up runs here already (or make down it)")
    # Queue and cache of an earlier run, whose data folder is gone.
    shutil.rmtree(ROOT / ".run" / "up" / "redis", ignore_errors=True)
    folder = tmp_path_factory.mktemp("clone")
    ports = free_ports()
    environment = {
        **os.environ,
        **{variable(name): str(port) for name, port in ports.items()},
        "DATA_DIR": str(folder / "data"),
        "WORKERS": "2",
        "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
        "CURL_HOME": str(folder),
        "NO_PROXY": "*",
        **{
            f"AGEGENDER_{name}_URL": f"http://127.0.0.1:{ports[service]}"
            for name, service in (
                ("PREDICTOR", "predictor"),
                ("TRAINER", "trainer"),
                ("PROXY", "embedder-proxy"),
            )
        },
    }
    (folder / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")
    (folder / ".venv").symlink_to(ROOT / ".venv")
    (folder / "docs").symlink_to(ROOT / "docs")
    (folder / "folder-of-images").mkdir()
    for name in ("photo.jpg", "other.jpg", "folder-of-images/one.jpg"):
        shutil.copy(SIX_ADULTS, folder / name)
    log = (folder / "up.log").open("w+")
    up = subprocess.Popen(
        ["make", "up"], cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    try:
        until(
            lambda: "ready. Predictor" in (folder / "up.log").read_text() or up.poll() is not None, "up", 900
        )
        assert up.poll() is None, (folder / "up.log").read_text()
        shell = Terminal(folder, ports, environment)
        write_faces(folder / "data", ports["predictor"])
        yield shell
        down = subprocess.run(
            ["make", "down"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert "stopped" in down.stdout
        assert up.wait(60) == 0, (folder / "up.log").read_text()
        assert not pid_file.exists()
    finally:
        if up.poll() is None:
            os.killpg(up.pid, signal.SIGTERM)
            up.wait(60)
        log.close()


def write_faces(data_dir: Path, predictor: int) -> None:
    """Make `Adience`, `mine` and `My faces`: six people of a photograph, each in one fold, four lights."""
    with SIX_ADULTS.open("rb") as file:
        answer = httpx.post(f"http://127.0.0.1:{predictor}/age-gender", files={"image": file}, timeout=300)
    photograph = Image.open(SIX_ADULTS)
    labels: list[tuple[str, str, tuple[int, int], str]] = []
    for person, face in enumerate(answer.json()["images"][0]["faces"]):
        x1, y1, x2, y2 = face["bbox"]
        margin = (x2 - x1) / 2
        crop = photograph.crop((int(x1 - margin), int(y1 - margin), int(x2 + margin), int(y2 + margin)))
        for number in range(TRIES):
            subject, name = f"person{person}", f"landmark_aligned_face.1.{number}.jpg"
            for folder in ("Adience/aligned", "mine", "My faces"):
                place = data_dir / folder / subject
                place.mkdir(parents=True, exist_ok=True)
                ImageEnhance.Brightness(crop).enhance(0.8 + 0.1 * number).save(place / name)
            labels.append((subject, name, AGES[person], face["gender"]["label"][0]))
    for fold in range(published.FOLDS):
        with published.adience_label_file(data_dir / "Adience", fold).open("w", newline="") as table:
            writer = csv.writer(table, delimiter="\t")
            writer.writerow(("user_id", "original_image", "face_id", "age", "gender"))
            for subject, name, (low, high), gender in labels:
                if int(subject.removeprefix("person")) % published.FOLDS != fold:
                    continue
                writer.writerow((subject, name.split(".", 2)[2], 1, f"({low}, {high})", gender))
    with (data_dir / "mine" / "labels.csv").open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(("file", "age", "gender", "subject"))
        writer.writerows((f"{subject}/{name}", low, sex, subject) for subject, name, (low, _), sex in labels)
    with (data_dir / "My faces" / "labels.csv").open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(("file", "age", "gender", "subject"))
        writer.writerows(
            (f"{subject}/{name}", low, int(sex == "f"), subject) for subject, name, (low, _), sex in labels
        )


@pytest.mark.parametrize(
    ("language", "program", "options"), [("python", "python", "-"), ("js", "node", "--input-type=module")]
)
def test_examples_of_the_readme_run_as_they_stand(
    terminal: Terminal, language: str, program: str, options: str
) -> None:
    if shutil.which(program, path=terminal.environment["PATH"]) is None:
        pytest.skip(f"{program} is not installed")
    lines = terminal.run(f"{program} {options} <<'END'\n{readme_code(language)}END").splitlines()
    assert len(lines) == 6  # a line per face of the photograph
    assert all("male" in line for line in lines)


PAGES = list(dict.fromkeys(command.page for command in documented_commands() if how(command.text) is None))
EXPECTED = {
    "curl -F image=@photo.jpg http://127.0.0.1:10003/age-gender": '"interval"',
    ".venv/bin/agegender train Adience": "mean",
    "curl http://127.0.0.1:10004/experiments/ID/report?format=md": "Cross-validation",
    "curl -X POST http://127.0.0.1:10004/experiments/ID/promote": '"gender"',
}


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_page_work_as_they_stand(terminal: Terminal, page: str) -> None:
    for command in documented_commands():
        if command.page == page and how(command.text) is None:
            output = terminal.run(command.text)
            assert command.text not in EXPECTED or EXPECTED[command.text] in output

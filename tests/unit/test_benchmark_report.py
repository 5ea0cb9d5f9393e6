"""The benchmarks' table: verdicts, and that all of it lands between the README's markers."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import report, table
from benchmarks.curves import Curve
from benchmarks.profiles import read_stacks
from benchmarks.table import Goal, Row, compared


@pytest.mark.parametrize(
    ("figure", "goal", "verdict", "remark"),
    [
        (9.0, Goal(8), "reached", "a note"),
        (7.9, Goal(8), "missed", "a note; the reason"),
        (2.0, Goal(3, at_most=True), "reached", "a note"),
        (3.1, Goal(3, at_most=True), "missed", "a note; the reason"),
        (3.1, None, "", "a note"),
        (None, Goal(8), "not measured", "a note"),
    ],
)
def test_row_states_whether_its_goal_is_met_and_why_not(
    figure: float | None, goal: Goal | None, verdict: str, remark: str
) -> None:
    row = Row("this", "that", figure, goal, note="a note", if_missed="the reason")
    assert (row.verdict, row.remark) == (verdict, remark)
    assert len(row.cells()) == report.HEADER.splitlines()[0].count("|") - 1


def test_sides_take_turns_and_each_turn_is_long_enough_to_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    clock = [0.0]

    def rest(seconds: float) -> None:
        runs.append("rest")
        clock[0] += seconds

    monkeypatch.setattr(table, "time", SimpleNamespace(perf_counter=lambda: clock[0], sleep=rest))

    def side(name: str, seconds: float) -> None:
        runs.append(name)
        clock[0] += seconds

    row = compared("fast", "slow", None, lambda: side("ours", 1 / 16), lambda: side("theirs", 2.0), 3)
    assert row.seconds == {"ours": 1 / 16, "theirs": 2.0} and row.figure == 32
    turn = ["rest", *["ours"] * 4, "rest", "theirs"]  # a quarter of a second, or one run
    assert runs == ["ours", "theirs", *turn * 3]  # each side once to warm, then three turns


def test_results_are_written_between_the_markers_and_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = report.README.read_text()
    for name, file in (("FOLDER", ""), ("README", "README.md"), ("RESULTS", "results.json")):
        monkeypatch.setattr(report, name, tmp_path / file)
    report.README.write_text(readme)
    rows = [Row("a | b", "c", 2.5, Goal(2)), Row("deepface", "", None, note="not here")]
    curve = Curve("clients", "Clients", "clients", "a second", ((1, 2), (2, 3)), "It bends.")
    for _ in range(2):  # a second run replaces the first one's figures
        report.write("a machine", 90, rows, [curve])
    text = report.README.read_text()
    assert text.count("| a / b | c | ≥ 2× | 2.5× | reached |  |") == 1
    assert "![Clients](plots/clients.svg)\n\nIt bends." in text and text.startswith("# Benchmarks")
    assert (tmp_path / "plots" / "clients.svg").read_text().count("<svg") == 1
    results = json.loads(report.RESULTS.read_text())
    assert [row["verdict"] for row in results["rows"]] == ["reached", "not measured"]
    assert results["minutes"] == 1.5 and results["curves"][0]["points"] == [[1, 2], [2, 3]]


def test_readme_without_its_markers_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "README", tmp_path / "README.md")
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results.json")
    report.README.write_text("# Benchmarks\n")
    with pytest.raises(SystemExit, match="markers"):
        report.write("a machine", 1, [], [])
    assert report.README.read_text() == "# Benchmarks\n"


def test_published_figures_name_no_folder_of_the_machine_that_measured_them() -> None:
    for file in (report.README, report.RESULTS):
        assert re.findall(r"(?:^|[\s\"'`(])/(?:home|root|tmp|Users|mnt|work|var)/\S*", file.read_text()) == []


def test_stacks_of_one_function_are_one_frame() -> None:
    root = read_stacks("main;work;wait 3\nmain;work 2\nmain;rest (a) 1\n")
    (main,) = root.called.values()
    assert (root.samples, main.samples) == (6, 6)
    assert {name: frame.samples for name, frame in main.called.items()} == {"work": 5, "rest (a)": 1}
    assert main.called["work"].called["wait"].samples == 3

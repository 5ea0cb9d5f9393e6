"""The benchmarks' table: verdicts, and that all of it lands between the README's markers."""

import json
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.curves import Curve
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
def test_row_says_whether_its_goal_is_met_and_why_not(
    figure: float | None, goal: Goal | None, verdict: str, remark: str
) -> None:
    row = Row("this", "that", figure, goal, note="a note", if_missed="the reason")
    assert (row.verdict, row.remark) == (verdict, remark)
    assert len(row.cells()) == report.HEADER.splitlines()[0].count("|") - 1


def test_what_is_twice_as_slow_is_half_as_fast() -> None:
    steps = iter(range(10_000))

    def work(count: int) -> None:
        for _ in range(count):
            next(steps)

    row = compared("many", "few", None, lambda: work(4), lambda: work(2), 3)
    assert row.figure == row.seconds["theirs"] / row.seconds["ours"]
    assert next(steps) == (3 + 1) * (4 + 2)  # each side once to warm, then three times


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

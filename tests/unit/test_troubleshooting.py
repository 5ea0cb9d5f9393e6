"""docs/troubleshooting.md explains every problem, and quotes messages of set-up as they are printed."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
SOURCES = ("services/**/*.py", "shared/**/*.py", "tools/*.py", "tools/*.sh")
# A problem's name and status, as `Problem("name", 422, ...)` and its subclasses have them.
PROBLEM = re.compile(r"(?:[A-Z]\w*|__init__)\(\s*\"([a-z]+(?:-[a-z]+)*)\",\s*([45]\d\d)\b")
UNSEEN = {"client-closed-request"}  # its client has gone


@cache
def source() -> str:
    """Return all code, with adjacent string literals joined."""
    text = "\n".join(path.read_text() for pattern in SOURCES for path in sorted(ROOT.glob(pattern)))
    return re.sub(r"\"\s*\n\s*f?\"", "", text)


def rows() -> list[list[str]]:
    return [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in PAGE.read_text().splitlines()
        if line.startswith("| `")
    ]


def explained() -> set[tuple[str, str]]:
    """Return the names and statuses that have a row."""
    cells = [row[0] for row in rows() if len(row) == 3]
    return {found for cell in cells for found in re.findall(r"`([a-z-]+)` (\d{3})", cell)}


@pytest.mark.parametrize("row", [row for row in rows() if len(row) == 2], ids=lambda row: row[0][:40])
def test_message_of_set_up_is_quoted_as_it_is_printed(row: list[str]) -> None:
    for message in re.findall(r"`([^`]+)`", row[0]):
        assert message in source()


def test_every_problem_is_explained_with_its_status() -> None:
    raised = {found for found in PROBLEM.findall(source()) if found[0] not in UNSEEN}
    assert len(raised) > 50
    assert explained() >= raised


@pytest.mark.parametrize("name", sorted({name for name, _ in explained()}))
def test_problem_is_one_that_the_program_answers(name: str) -> None:
    assert f'"{name}"' in source()

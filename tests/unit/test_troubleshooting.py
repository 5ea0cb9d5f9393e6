"""docs/troubleshooting.md quotes what the program really says."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
SOURCES = ("services/**/*.py", "shared/**/*.py", "tools/*.py", "tools/*.sh")


@cache
def source() -> str:
    """All code, with string literals that stand side by side made one."""
    text = "\n".join(path.read_text() for pattern in SOURCES for path in sorted(ROOT.glob(pattern)))
    return re.sub(r"\"\s*\n\s*f?\"", "", text)


def rows() -> list[list[str]]:
    return [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in PAGE.read_text().splitlines()
        if line.startswith("| ") and not line.startswith(("| ---", "| what", "| name"))
    ]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:40])
def test_sentence_is_the_program_s_own(row: list[str]) -> None:
    sentences = row[0] if len(row) == 2 else row[1]
    for sentence in re.findall(r"`([^`]+)`", sentences):
        assert sentence in source()


@pytest.mark.parametrize("row", [row for row in rows() if len(row) == 3], ids=lambda row: row[0][:40])
def test_problem_is_one_that_the_program_answers(row: list[str]) -> None:
    for name in re.findall(r"^`([a-z-]+)` \d{3}", row[0]):
        assert f'"{name}"' in source()

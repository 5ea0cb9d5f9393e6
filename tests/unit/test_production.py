"""The production checklist fits on a page, and a test runs each of its commands."""

import re

import pytest

from tools.stack import ROOT

PAGE = (ROOT / "docs" / "production.md").read_text()
LINES_OF_A_PAGE = 45
# Command → the test that runs it, and a word of that test which shows it.
RUN = {
    "make doctor": ("tests/unit/test_doctor.py", "tools.doctor"),
    "make audit": ("tests/stack/test_supply_chain.py", "audit"),
    "agegender prune --older-than 30d": ("tests/unit/test_cli_pruning.py", '"prune", "--older-than", "30d"'),
    "agegender rollback gender": ("tests/contract/test_predictor_cli.py", '"rollback", "gender"'),
}


def commands() -> set[str]:
    return set(re.findall(r"`((?:make|agegender|docker|kubectl) [^`]+)`", PAGE))


def test_checklist_is_at_most_a_page() -> None:
    assert len(PAGE.splitlines()) <= LINES_OF_A_PAGE


def test_every_command_is_known() -> None:
    assert commands() == set(RUN)


@pytest.mark.parametrize("command", RUN)
def test_a_test_runs_the_command(command: str) -> None:
    path, shown = RUN[command]
    assert shown in (ROOT / path).read_text(), path


def test_every_row_has_a_command_or_a_page() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    assert len(rows) > 15
    for row in rows:
        if "command or page" not in row and "| page |" not in row:
            assert re.search(r"\]\(|`(make|agegender)", row), row

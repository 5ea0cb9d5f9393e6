"""The README's figures are those on the cards of the shipped heads."""

import json
from typing import Any

import pytest

from tools.stack import ROOT

README = (ROOT / "README.md").read_text()
HEADS = ROOT / "services" / "predictor" / "heads"
DEFAULT = "`human` (`human-3`)"
SPACES = {DEFAULT: "human-3", "`human-2`": "human-2", "`buffalo_sc`": "buffalo_sc-5"}


def metrics(task: str, space: str) -> dict[str, Any]:
    version = json.loads((HEADS / task / space / "current.json").read_text())["version"]
    head = json.loads((HEADS / task / space / version / "head.json").read_text())
    return dict(head["card"]["metrics"])


def cells(first: str) -> list[str]:
    """The cells of the only row of a table that begins with this cell, or with it and a comma."""
    rows = [line.strip("| ").split(" | ") for line in README.splitlines() if line.startswith("| ")]
    (row,) = [row for row in rows if row[0].partition(",")[0] == first]
    return row[1:]


@pytest.mark.parametrize("name", SPACES)
def test_row_of_a_pack_is_that_of_its_heads(name: str) -> None:
    age, gender = metrics("age", SPACES[name]), metrics("gender", SPACES[name])
    *shares, intervals = cells(name)
    assert shares == [
        f"{age['mae']:.2f}",
        f"{age['group_accuracy']:.3f}",
        f"{age['one_off_accuracy']:.3f}",
        f"{gender['accuracy']:.3f}",
    ]
    if name == DEFAULT:  # the other cards are from before familiarity widened intervals
        assert intervals == f"{100 * age['coverage']:.1f} %, {age['width']:.1f} years"


def test_rows_of_age_groups_are_those_of_the_default_heads() -> None:
    ages = metrics("age", "human-3")["cells"]
    genders = {(cell["group"], cell["gender"]): cell for cell in metrics("gender", "human-3")["cells"]}
    of = {(cell["group"], cell["gender"]): cell for cell in ages}
    faces = sum(cell["faces"] for cell in ages)
    for group in {cell["group"] for cell in ages}:
        keys = [(group, "female"), (group, "male")]
        assert cells(group) == [
            f"{100 * sum(of[key]['faces'] for key in keys) / faces:.0f} %",
            ", ".join(f"{of[key]['mae']:.1f}" for key in keys),
            ", ".join(f"{genders[key]['accuracy']:.2f}" for key in keys),
            ", ".join(f"{of[key]['coverage']:.2f}" for key in keys),
        ], group


def test_sentences_about_weak_groups_are_those_of_the_default_heads() -> None:
    age = {(cell["group"], cell["gender"]): cell for cell in metrics("age", "human-3")["cells"]}
    covered = [100 * cell["coverage"] for cell in age.values()]
    assert f"the age for {min(covered):.0f} to {max(covered):.0f} % of each age group" in README
    assert f"Women of 48 to 53 have a mean error of {age['48-53', 'female']['mae']:.1f} years" in README
    assert 0.3 < age["38-43", "female"]["group_accuracy"] < 0.37  # "a third"

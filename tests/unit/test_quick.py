"""`make quick` runs the tests nearest to a change, and lists those it omits."""

import pytest

from tools import quick


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("shared/agegender/errors.py", "agegender.errors"),
        ("services/trainer/trainer/__init__.py", "trainer"),
        ("tests/unit/test_quick.py", "tests.unit.test_quick"),
        ("README.md", None),
        ("findings/name.sh", None),
    ],
)
def test_file_is_known_by_its_module(path: str, module: str | None) -> None:
    assert quick.module_of(path) == module


def test_tests_are_as_far_from_a_change_as_their_imports() -> None:
    near = quick.distances(["services/predictor/predictor/quality.py", "tests/unit/test_quick.py"])
    assert near["tests/unit/test_quick.py"] == 0
    assert near["tests/unit/test_predictor_quality.py"] == 1
    assert near["tests/contract/test_predictor_page.py"] > 1
    assert "tests/unit/test_wire_arrays.py" not in near


def test_tests_that_name_a_changed_file_run() -> None:
    assert quick.distances(["docs/troubleshooting.md"])["tests/unit/test_troubleshooting.py"] == 1


def test_tests_that_read_every_file_run_after_any_change() -> None:
    near = quick.distances(["tests/browser/test_page.py"])  # which no unit or contract test imports
    assert near == dict.fromkeys(quick.EVERY_CHANGE, 1)


def test_nearest_tests_fill_the_budget_and_changed_ones_always_run() -> None:
    near = {"far.py": 3, "near.py": 1, "long.py": 1, "changed.py": 0}
    durations = {"far.py": 1.0, "near.py": 20.0, "long.py": 60.0, "changed.py": 100.0}
    assert quick.selection(near, durations, 90.0) == (["changed.py"], ["near.py", "long.py", "far.py"])
    durations["changed.py"] = 50.0
    assert quick.selection(near, durations, 90.0) == (["changed.py", "near.py"], ["long.py", "far.py"])

"""No name of a data set, an experiment, a space or a version leaves the data folder."""

import contextlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from agegender.errors import Problem
from agegender.heads.head import BadHead, read_current
from agegender.spaces import NAME, Space
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from trainer.datasets.catalog import dataset_folder
from trainer.datasets.labels import is_safe_name
from trainer.experiments.experiment import ExperimentRequest, experiment_dir, load_experiment

PARTS = st.sampled_from(
    [
        "..",
        ".",
        "/",
        "\\",
        "~",
        "\0",
        "\n",
        "%2e",
        "%2f",
        "a",
        "etc",
        "CON",
        ":",
        "…",
        "/",
        "．．",
        "-",
        "x" * 120,
    ]
)
NAMES = st.text(max_size=30) | st.lists(PARTS, max_size=8).map("".join)


def stays(data_dir: Path, path: Path) -> bool:
    """Resolved, the path is one folder below its parent and inside of the data folder."""
    return path.resolve().is_relative_to(data_dir.resolve()) and path.resolve() != data_dir.resolve()


@pytest.fixture(scope="module")
def data_dir() -> Path:
    folder = Path(tempfile.mkdtemp()) / "data"
    (folder / "experiments").mkdir(parents=True)
    (folder / "a").mkdir()
    return folder


FOLDERS: dict[str, Callable[[Path, str], Path]] = {
    "data set": dataset_folder,
    "experiment": experiment_dir,
}


@pytest.mark.parametrize("what", FOLDERS)
@given(name=NAMES)
def test_name_is_a_folder_inside_or_not_found(data_dir: Path, what: str, name: str) -> None:
    try:
        path = FOLDERS[what](data_dir, name)
    except Problem as problem:
        assert problem.status == 404
    else:
        assert stays(data_dir, path)
        assert path.name == name


@given(name=NAMES)
def test_experiment_that_is_none_is_not_found(data_dir: Path, name: str) -> None:
    with pytest.raises(Problem) as caught:
        load_experiment(data_dir, name)
    assert caught.value.status == 404


@given(name=NAMES)
def test_request_and_space_take_only_names(data_dir: Path, name: str) -> None:
    with contextlib.suppress(ValidationError):
        ExperimentRequest.model_validate({"dataset": name})
        assert stays(data_dir, data_dir / name) and (data_dir / name).name == name
    with contextlib.suppress(ValidationError):
        Space(id=name, dimension=2)
        assert NAME.fullmatch(name)


@pytest.mark.parametrize("name", ["My faces", "UTKFace (1)", "Bübü & Co.", "30601258@N03", "a", "x" * 100])
def test_data_set_may_be_named_as_people_name_folders(data_dir: Path, name: str) -> None:
    (data_dir / name).mkdir(exist_ok=True)
    assert dataset_folder(data_dir, name) == data_dir / name
    assert ExperimentRequest.model_validate({"dataset": name}).datasets == [name]


@pytest.mark.parametrize("name", [" a", "a ", "a\u00a0b", "a\tb", "x" * 101, "ü" * 101, ".a", "-a", "a:b"])
def test_folder_of_another_name_is_not_found_and_the_answer_states_which_are(
    data_dir: Path, name: str
) -> None:
    with pytest.raises(Problem, match="up to 100 letters, digits, blanks") as caught:
        dataset_folder(data_dir, name)
    assert caught.value.status == 404


@given(name=NAMES)
def test_served_version_is_only_a_name(data_dir: Path, name: str) -> None:

    (data_dir / "current.json").write_text(json.dumps({"version": name}))
    with contextlib.suppress(BadHead):
        current = read_current(data_dir)
        assert current is not None and NAME.fullmatch(current.version)


@given(name=NAMES)
def test_file_of_a_labels_table_stays_in_its_folder(data_dir: Path, name: str) -> None:
    if is_safe_name(name):
        assert stays(data_dir, data_dir / name)

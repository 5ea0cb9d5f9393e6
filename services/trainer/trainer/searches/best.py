"""The best trial of a search, for an experiment to take over."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agegender.errors import Problem

from trainer.datasets.embedding_set import FaceLabels
from trainer.datasets.exclusiveness import shared_faces
from trainer.experiments.experiment import ChosenBy
from trainer.experiments.faces import load_label_sets
from trainer.experiments.request import refused
from trainer.searches.store import load_search, read_trial, search_status, trial_dir

_OF_THE_TRIAL = ("seed", "seeds")  # an experiment has its own


def faces_seen_by_search(data_dir: Path, chosen_by: ChosenBy, sets: Mapping[str, FaceLabels]) -> int | None:
    """Count the faces of `sets` that the search has in other data sets; None if these cannot be read.

    Data sets that both name are the report's concern: it knows which folds were held out.
    """
    search = load_search(data_dir, chosen_by.search)
    try:
        seen = load_label_sets(data_dir, search.datasets, search.space, search.variant)
    except Problem:
        return None
    others = {name: faces for name, faces in seen.items() if name not in sets}
    if not all(faces.has_hashes for faces in (*others.values(), *sets.values())):
        return None if others else 0
    return shared_faces(others, sets)[0]


def chosen_options(data_dir: Path, search_id: str) -> tuple[dict[str, Any], ChosenBy]:
    """Options of the best trial, as `TrainingRequest.training_options` takes them, and where they come from.

    Raises ``invalid-request`` 422 where there is no such search, or it is not finished.
    """
    try:
        search = load_search(data_dir, search_id)
    except Problem as problem:
        raise refused("search", problem.detail) from problem
    status = search_status(data_dir, search)
    if status.state != "finished" or status.best is None:
        raise refused("search", f"Search {search_id} is {status.state}; wait until it is finished.")
    trial = read_trial(trial_dir(data_dir, search_id, status.best.trial))
    if trial is None:
        raise refused("search", f"Trial {status.best.trial} of search {search_id} has lost its file.")
    options = trial.options.model_dump(mode="json", exclude=set(_OF_THE_TRIAL))
    judged = sum(one.state in ("finished", "pruned") for one in status.trials)
    return options, ChosenBy(
        search=search_id,
        trial=status.best.trial,
        trials=judged,
        datasets=search.datasets,
        held_out=search.held_out,
    )

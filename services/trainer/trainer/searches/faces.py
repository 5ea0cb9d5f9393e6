"""The faces that a search may look at."""

import numpy as np

from trainer.datasets.embedding_set import FaceLabels
from trainer.datasets.folds import groups_of, strata_of, stratified_folds
from trainer.experiments.faces import Faces, labelled
from trainer.experiments.request import refused
from trainer.searches.search import Search


def searched_faces(faces: Faces, search: Search) -> tuple[Faces, np.ndarray]:
    """The labelled faces of the search's folds, and the part [faces] that each belongs to.

    Raises ``too-few-subjects`` 422.
    """
    chosen = labelled(faces, search.options)
    chosen = chosen.rows(np.flatnonzero(np.isin(chosen.fold, search.folds)))
    strata = strata_of(chosen.age_low, chosen.age_high, chosen.gender)
    return chosen, stratified_folds(strata, groups_of(chosen.subject), search.parts, search.options.seed)


def require_exact_ages(faces: FaceLabels, part_of: np.ndarray, search: Search) -> None:
    """Raises ``invalid-request`` 422 where the goal is an error in years, and a part has no exact age."""
    exact = part_of[faces.has_age & (faces.age_low == faces.age_high)]
    if search.goal == "mae" and len(np.unique(exact)) < search.parts:
        told = (
            "mae is of ages that are known to the year, which are too few here; take nll or group-accuracy."
        )
        raise refused("goal", told)

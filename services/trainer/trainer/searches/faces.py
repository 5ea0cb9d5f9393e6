"""The faces that a search may look at."""

import numpy as np

from trainer.datasets.folds import groups_of, strata_of, stratified_folds
from trainer.experiments.faces import Faces, labelled
from trainer.searches.search import Search


def searched_faces(faces: Faces, search: Search) -> tuple[Faces, np.ndarray]:
    """The labelled faces of the search's folds, and the part [faces] that each belongs to.

    Raises ``too-few-subjects`` 422.
    """
    chosen = labelled(faces, search.options)
    chosen = chosen.rows(np.flatnonzero(np.isin(chosen.fold, search.folds)))
    strata = strata_of(chosen.age_low, chosen.age_high, chosen.gender)
    return chosen, stratified_folds(strata, groups_of(chosen.subject), search.parts, search.options.seed)

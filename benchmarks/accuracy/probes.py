"""Simple alternatives on the same folds: a linear probe and gradient boosting."""

from typing import Any

import numpy as np
import numpy.typing as npt
from agegender.labels import YEARS
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from trainer.datasets.embedding_set import EmbeddingSet
from trainer.datasets.folds import groups_of, strata_of, validation_split

from benchmarks.accuracy.answers import Answers

Array = npt.NDArray[np.float32]
_RIDGE_ALPHAS = (100.0, 1000.0, 10000.0)
_LOGISTIC_CS = (1e-4, 1e-3, 1e-2)


def linear(fit: EmbeddingSet, validation: EmbeddingSet) -> tuple[Any, Any]:
    """Fit ridge regression for age and logistic regression for gender, with the penalty by validation."""
    ages = [Ridge(alpha).fit(fit.embedding, fit.age_low) for alpha in _RIDGE_ALPHAS]
    genders = [LogisticRegression(C=c, max_iter=300).fit(fit.embedding, fit.gender) for c in _LOGISTIC_CS]
    return (
        max(ages, key=lambda model: model.score(validation.embedding, validation.age_low)),
        max(genders, key=lambda model: model.score(validation.embedding, validation.gender)),
    )


def boosting(fit: EmbeddingSet, validation: EmbeddingSet) -> tuple[Any, Any]:
    """Fit histogram gradient boosting, with early stopping on the validation faces."""
    options: dict[str, Any] = {
        "max_iter": 400, "learning_rate": 0.08, "max_features": 0.2, "early_stopping": True, "random_state": 0
    }  # fmt: skip
    held = {"X_val": validation.embedding}
    return (
        HistGradientBoostingRegressor(**options).fit(
            fit.embedding, fit.age_low, **held, y_val=validation.age_low
        ),
        HistGradientBoostingClassifier(**options).fit(
            fit.embedding, fit.gender, **held, y_val=validation.gender
        ),
    )


PROBES = {"ridge and logistic regression": linear, "gradient boosting": boosting}


def probe(name: str, faces: EmbeddingSet) -> Answers:
    """Return out-of-fold predictions; an age is a normal distribution as wide as the validation errors."""
    age, gender = np.zeros((len(faces), YEARS), np.float32), np.zeros((len(faces), 2), np.float32)
    for fold in np.unique(faces.fold):
        test, rest = np.flatnonzero(faces.fold == fold), faces.rows(np.flatnonzero(faces.fold != fold))
        scaler = StandardScaler().fit(rest.embedding)
        rest = _scaled(rest, scaler)
        strata = strata_of(rest.age_low, rest.age_high, rest.gender)
        validates = validation_split(strata, groups_of(rest.subject), 0.1, seed=int(fold))
        validation = rest.rows(validates)
        of_age, of_gender = PROBES[name](rest.rows(~validates), validation)
        width = float(np.std(of_age.predict(validation.embedding) - validation.age_low))
        tested = scaler.transform(faces.embedding[test])
        bell = -0.5 * ((np.arange(YEARS) - of_age.predict(tested)[:, None]) / width) ** 2
        bell = np.exp(bell - bell.max(axis=1, keepdims=True))
        age[test] = bell / bell.sum(axis=1, keepdims=True)
        gender[test] = of_gender.predict_proba(tested)
    return Answers(name, faces, age[None], gender[None])


def _scaled(faces: EmbeddingSet, scaler: StandardScaler) -> EmbeddingSet:
    scaled = scaler.transform(faces.embedding).astype(np.float32)
    return EmbeddingSet(**{**vars(faces), "embedding": scaled})

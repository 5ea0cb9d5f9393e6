"""Derive a head's answer for a face from class probabilities."""

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from agegender.heads.calibration import ConformalIntervals, mean_years
from agegender.labels import AGE_GROUP_NAMES, GENDER_NAMES, group_probabilities

Array = npt.NDArray[np.floating]


class AgeAnswer(BaseModel):
    """The age of one face."""

    mean: float = Field(description="expected apparent age, years", examples=[31.4])
    interval: tuple[float, float] = Field(
        description="years; contains the age with the stated coverage", examples=[[24.9, 38.2]]
    )
    coverage: float = Field(description="share of faces whose age is within their interval", examples=[0.9])
    group: str = Field(description="the most probable of Adience's age groups", examples=["25-32"])
    groups: dict[str, float] = Field(description="probability of each age group")
    entropy: float = Field(
        description="of the distribution over groups, in nats; 0 = certain, 2.08 = uniform"
    )


class GenderAnswer(BaseModel):
    """The gender of one face."""

    label: str = Field(description="the more probable presentation", examples=["female"])
    probability: dict[str, float] = Field(examples=[{"female": 0.97, "male": 0.03}])
    entropy: float = Field(description="in nats; 0 = certain, 0.69 = uniform", examples=[0.13])


def entropy(probabilities: Array) -> Array:
    """Return the Shannon entropy in nats over the last axis."""
    return np.asarray(-(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=-1))


def age_answers(year_probabilities: Array, conformal: ConformalIntervals, coverage: float) -> list[AgeAnswer]:
    """Return one answer per face from calibrated distributions over years [faces, 101]."""
    if not len(year_probabilities):
        return []
    groups = group_probabilities(year_probabilities)
    low, high = conformal.intervals(year_probabilities, coverage)
    means, entropies = mean_years(year_probabilities), entropy(groups)
    return [
        AgeAnswer(
            mean=round(float(means[face]), 2),
            interval=(round(float(low[face]), 1), round(float(high[face]), 1)),
            coverage=coverage,
            group=AGE_GROUP_NAMES[int(groups[face].argmax())],
            groups=dict(zip(AGE_GROUP_NAMES, _rounded(groups[face]), strict=True)),
            entropy=round(float(entropies[face]), 4),
        )
        for face in range(len(year_probabilities))
    ]


def gender_answers(probabilities: Array) -> list[GenderAnswer]:
    """Return one answer per face from calibrated probabilities [faces, 2] of female and male."""
    entropies = entropy(probabilities)
    return [
        GenderAnswer(
            label=GENDER_NAMES[int(probabilities[face].argmax())],
            probability=dict(zip(GENDER_NAMES, _rounded(probabilities[face]), strict=True)),
            entropy=round(float(entropies[face]), 4),
        )
        for face in range(len(probabilities))
    ]


def _rounded(probabilities: Array) -> list[float]:
    return [round(float(value), 5) for value in probabilities]

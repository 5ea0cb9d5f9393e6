"""Embedding spaces: embeddings of different models, or of different crops, cannot be mixed."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_validator

from agegender.errors import space_mismatch

# Spaces of packs that were the default, and the one that took their place.
_FORMER = {"human-2": "human-3"}

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Space(BaseModel):
    """The space of an embedding: the pack, model and preprocessing that produced it, and its dimension."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(description="pack, model and preprocessing version", examples=["human-3"])
    dimension: int = Field(gt=0, le=65536)

    @field_validator("id")
    @classmethod
    def _is_a_safe_file_name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError("a space id may contain only letters, digits, '.', '_' and '-'")
        return value

    def __str__(self) -> str:
        return f"{self.id} ({self.dimension}-d)"

    def require(self, given: "Space") -> None:
        """Raise ``space-mismatch`` 409, which names both spaces, unless `given` is this space."""
        if given != self:
            raise space_mismatch(str(self), str(given))


def former_default(spaces: Iterable[str], what: str) -> str | None:
    """Return what to do about something in the space of an earlier default pack; None for other spaces.

    what : the subject of the sentence, such as a data set and "was extracted".
    """
    for old in spaces:
        if (new := _FORMER.get(old)) is not None:
            return (
                f"{what} in {old}, the space of an earlier default pack. Faces are now embedded in {new}, "
                f"for which heads of {old} are not used. Extract again, or keep the earlier pack for one "
                f"release by EMBEDDER_PACK={old}."
            )
    return None


@dataclass(frozen=True)
class Recogniser:
    """The columns of a space's embedding that identify a person.

    columns : range of the embedding.
    threshold : cosine of these columns from which two images, of any people, show one person.
    same_person : cosine of the means of two tracks from which they show one person of a video.
    """

    name: str
    columns: slice
    threshold: float
    same_person: float

    def vectors(self, embedding: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Return the recogniser's unit vectors [faces, columns]; `embedding` may be a mapped file."""
        own = np.array(embedding[:, self.columns], dtype=np.float32)
        own /= np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-12)
        return own


# By space id. Other spaces have no recogniser with a validated threshold.
RECOGNISERS: Final = {
    "human-2": Recogniser("mobileface", slice(2048, 2304), 0.8, 0.65),
    "human-3": Recogniser("mobileface", slice(3344, 3600), 0.8, 0.65),
}


def recogniser_of(space: Space) -> Recogniser | None:
    """Return the recogniser of a space, or None if it has none."""
    return RECOGNISERS.get(space.id)

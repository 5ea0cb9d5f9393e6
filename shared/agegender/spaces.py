"""Embedding spaces: embeddings of different models, or of different crops, cannot be mixed."""

import re

from pydantic import BaseModel, ConfigDict, Field, field_validator

from agegender.errors import space_mismatch

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Space(BaseModel):
    """The space of an embedding: the pack, model and preprocessing that produced it, and its dimension."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(description="pack, model and preprocessing version", examples=["human-2"])
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

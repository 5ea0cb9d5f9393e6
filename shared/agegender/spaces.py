"""Embedding spaces: embeddings of two models, or of two croppings, cannot be mixed."""

import re

from pydantic import BaseModel, ConfigDict, Field, field_validator

from agegender.errors import space_mismatch

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Space(BaseModel):
    """Where an embedding lives: which pack, model and preprocessing made it, and its dimension."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(description="pack, model and preprocessing version", examples=["human-2"])
    dimension: int = Field(gt=0, le=65536)

    @field_validator("id")
    @classmethod
    def _is_a_safe_file_name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError("a space id has letters, digits, '.', '_' and '-' only")
        return value

    def __str__(self) -> str:
        return f"{self.id} ({self.dimension}-d)"

    def require(self, given: "Space") -> None:
        """Raise the `space-mismatch` problem, which names both, unless `given` is this space."""
        if given != self:
            raise space_mismatch(str(self), str(given))

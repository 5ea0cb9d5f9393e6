"""What requests for training have in common: the data and the options that are not the preset's."""

import json
from typing import Any, Literal

from agegender.errors import Problem
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    ValidationError,
    field_validator,
)

from trainer.datasets.embedding_set import is_dataset_name
from trainer.datasets.exclusiveness import Overlap
from trainer.training.config import Objective, Preset, TrainingOptions, preset_options

_GROUPS = ("head", "optimizer", "loss", "augmentation")
_SINGLE = ("seeds", "seed", "classes", "validation")


class TrainingRequest(BaseModel):
    """What is not given comes from the preset; unknown options, and text for a number, are errors."""

    model_config = ConfigDict(extra="forbid")

    task: Objective = "age-gender"
    dataset: str | list[str] = Field(description="one extracted data set, or several to train on together")
    variant: str | None = Field(
        None,
        description="folder of images, where there are several; of several data sets one each, with commas",
    )
    space: str | None = Field(None, description="id of the space, where there are several")
    preset: Preset = "default"
    seeds: StrictInt | None = None
    seed: StrictInt | None = None
    classes: Literal["years", "groups"] | None = None
    validation: StrictFloat | None = None
    head: dict[str, Any] | None = None
    optimizer: dict[str, Any] | None = None
    loss: dict[str, Any] | None = None
    augmentation: dict[str, Any] | None = None
    overlap: Overlap = Field(
        "refuse",
        description="if faces of one photograph or subject are in several folds, or in several data sets: "
        "`refuse`; `merge` them into one subject, in one fold; or `allow` it, which the report states",
    )

    @field_validator("dataset")
    @classmethod
    def _names(cls, value: str | list[str]) -> list[str]:
        names = [value] if isinstance(value, str) else value
        if not names or len(set(names)) != len(names):
            raise ValueError("one or more different data sets")
        for name in names:
            if not is_dataset_name(name):
                raise ValueError(f"{name!r} is no name of a data set")
        return names

    @property
    def datasets(self) -> list[str]:
        return [self.dataset] if isinstance(self.dataset, str) else self.dataset

    def training_options(self, base: dict[str, Any] | None = None) -> TrainingOptions:
        """The options of `base`, or of the preset, with this request's over them.

        Raises ``invalid-request`` 422 naming the fields.
        """
        given = dict(preset_options(self.preset, self.task) if base is None else base)
        for name in _GROUPS:
            own = getattr(self, name)
            if own is not None:
                before = given.get(name, {})
                replaced = name == "head" and own.get("kind", "mlp") != before.get("kind", "mlp")
                given[name] = {"kind": "mlp", **own} if name == "head" and replaced else {**before, **own}
        if "head" in given:
            given["head"] = {"kind": "mlp", **given["head"]}
        for name in _SINGLE:
            if getattr(self, name) is not None:
                given[name] = getattr(self, name)
        try:
            # As JSON, where strictness takes lists for tuples but no text for numbers.
            options = json.dumps({**given, "task": self.task})
            return TrainingOptions.model_validate_json(options, strict=True)
        except ValidationError as error:
            raise invalid_options(error) from error


def refused(field: str, detail: str) -> Problem:
    """``invalid-request`` 422 for one field."""
    return Problem("invalid-request", 422, detail, errors=[{"field": field, "message": detail}])


def invalid_options(error: ValidationError, within: str = "") -> Problem:
    """``invalid-request`` 422 that names the fields, below `within`, as a request has them."""
    errors = [
        {"field": within + ".".join(_parts(item["loc"])), "message": item["msg"]} for item in error.errors()
    ]
    detail = "; ".join(f"{item['field']}: {item['message']}" for item in errors[:5])
    return Problem("invalid-request", 422, detail, errors=errors)


def _parts(location: tuple[str | int, ...]) -> list[str]:
    """Without the kind of head, which pydantic puts between `head` and the field's name."""
    return [
        str(part) for index, part in enumerate(location) if not (index == 1 and part in ("mlp", "resmlp"))
    ]

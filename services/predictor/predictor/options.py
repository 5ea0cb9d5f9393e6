"""What the predictor can be asked over HTTP beside the images themselves."""

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar

from agegender.errors import Problem
from agegender.faces import FaceSelection, Number
from agegender_service.inputs import contradicting, unknown_input, unknown_name
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

Model = TypeVar("Model", bound=BaseModel)
Sent = tuple[str, Iterable[tuple[str, Any]]]  # where options came from, and their names and values
Picture = Literal["PNG", "JPEG"]

Coverage = Annotated[
    float,
    Field(ge=0.5, le=0.99, description="share of faces whose age should lie in their interval"),
    AfterValidator(lambda value: round(value, 2)),
]


class Uncertainty(StrEnum):
    """Where the spread of an answer comes from."""

    ENSEMBLE = "ensemble"
    MC_DROPOUT = "mc-dropout"


class HeadOptions(BaseModel):
    """Options of every route that asks the heads: as query parameters, form fields or JSON members."""

    model_config = ConfigDict(extra="forbid")

    coverage: Coverage = 0.9
    uncertainty: Uncertainty = Field(
        Uncertainty.ENSEMBLE, description="mean over the bank's members, or Monte-Carlo dropout (slower)"
    )


class FaceOptions(FaceSelection, HeadOptions):
    """Options of `POST /age-gender`."""

    embeddings: bool = Field(False, description="answer each face's embedding too; it is biometric data")

    @property
    def selection(self) -> FaceSelection:
        return FaceSelection(**{name: getattr(self, name) for name in FaceSelection.model_fields})


Options = TypeVar("Options", bound=HeadOptions)


def merged(model: type[Options], query: Iterable[tuple[str, str]], *sent: Sent) -> Options:
    """The options of a request that may come as query parameters, form fields and JSON members.

    Raises ``invalid-request`` 422 for unknown names, bad values, and an option with two values.
    """
    values: dict[str, Any] = {}
    for place, pairs in (("query parameter", query), *sent):
        for name, given in pairs:
            if name not in model.model_fields:
                raise unknown_input(place, name, model.model_fields)
            value = getattr(validated(lambda: model.model_validate({name: given})), name)  # noqa: B023
            if values.setdefault(name, value) != value:
                raise contradicting(name, (values[name], value))
    return model.model_validate(values)


def given_options(model: type[HeadOptions], sent: HeadOptions) -> Sent:
    """The options that stood in a JSON body."""
    names = sorted(model.model_fields.keys() & sent.model_fields_set)
    return "JSON member", [(name, getattr(sent, name)) for name in names]


def parsed(model: type[Model], body: bytes) -> Model:
    """A JSON body as `model`, or the problem ``invalid-request`` 422 that names the fields."""
    return validated(lambda: model.model_validate_json(body), model)


def validated(make: Callable[[], Model], model: type[Model] | None = None) -> Model:
    """What `make` gives; errors as ``invalid-request`` 422 with the nearest of `model`'s names."""
    try:
        return make()
    except ValidationError as error:
        errors = [
            {"field": ".".join(map(str, item["loc"])), "message": _message(item["type"], item, model)}
            for item in error.errors(include_input=False, include_url=False)[:50]
        ]
        detail = "; ".join(f"{item['field'] or 'body'}: {item['message']}" for item in errors[:5])
        raise Problem("invalid-request", 422, detail, errors=errors) from error


def _message(kind: str, item: Mapping[str, Any], model: type[BaseModel] | None) -> str:
    if kind == "extra_forbidden" and len(item["loc"]) == 1 and model is not None:
        return f"There is no JSON member {unknown_name(str(item['loc'][0]), model.model_fields)}"
    return str(item["msg"])


class ImagesRequest(FaceOptions):
    """JSON with images in it, for clients that cannot send multipart."""

    images: list[str] = Field(min_length=1, description="each an image file in base64, or as a data URL")


class EmbeddingsRequest(HeadOptions):
    """The body of `POST /age-gender/embeddings`."""

    space: str = Field(description="the id of the space that the embeddings live in", examples=["human-2"])
    embeddings: list[list[Number]] = Field(description="points on the unit sphere, one a face")

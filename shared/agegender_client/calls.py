"""Every request that a client can make, as data; `Client` and `AsyncClient` only send them."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import httpx
from agegender.errors import Problem
from agegender.faces import FacesAnswer, ImageFaces, ImageProblem
from agegender.heads.head import Task
from agegender.predictions import AgeGenderAnswer, EmbeddingsAnswer, ImageAnswer, Models
from pydantic import TypeAdapter

from agegender_client.inputs import embedding_rows, path_part, request_body
from agegender_client.training import (
    Dataset,
    DuplicateGroup,
    Experiment,
    Extraction,
    HeadComparison,
    ReportFormat,
    Search,
    is_search,
)

Answer = TypeVar("Answer")
Entry = TypeVar("Entry", ImageAnswer, ImageFaces)
Service = Literal["predictor", "trainer", "proxy"]


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """One request. `repeatable` ones are sent again even where the service may have acted already."""

    service: Service
    method: str
    path: str
    read: Callable[[httpx.Response], Answer]
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Any = None
    images: Sequence[bytes] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        return http.build_request(
            self.method,
            self.path,
            params={name: value for name, value in self.params.items() if value is not None},
            json=self.json,
            files=[("image", ("image", image, "application/octet-stream")) for image in self.images] or None,
            headers=self.headers,
        )


def _as(type_: type[Answer]) -> Callable[[httpx.Response], Answer]:
    adapter = TypeAdapter(type_)
    return lambda response: adapter.validate_json(response.content)


def _content(response: httpx.Response) -> bytes:
    return response.content


def _text(response: httpx.Response) -> str:
    return response.text


def sole(entries: Sequence[Entry | ImageProblem]) -> Entry:
    """The answer for the only image of a request. Raises its problem."""
    (entry,) = entries
    if isinstance(entry, ImageProblem):
        raise Problem.from_document(entry.problem)
    return entry


def predict(images: Sequence[bytes], options: Mapping[str, Any]) -> Call[AgeGenderAnswer]:
    return Call("predictor", "POST", "/age-gender", _as(AgeGenderAnswer), params=options, images=images)


def annotate(image: bytes, options: Mapping[str, Any]) -> Call[bytes]:
    return Call(
        "predictor",
        "POST",
        "/age-gender",
        _content,
        params=options,
        images=[image],
        headers={"Accept": "image/png"},
    )


def predict_embeddings(
    space: str, embeddings: Sequence[Sequence[float]], options: Mapping[str, Any]
) -> Call[EmbeddingsAnswer]:
    body = {"space": space, "embeddings": embedding_rows(embeddings)}
    return Call(
        "predictor", "POST", "/age-gender/embeddings", _as(EmbeddingsAnswer), params=options, json=body
    )


def faces(images: Sequence[bytes]) -> Call[FacesAnswer]:
    return Call("proxy", "POST", "/faces", _as(FacesAnswer), images=images)


def models() -> Call[Models]:
    return Call("predictor", "GET", "/models", _as(Models))


def roll_back(task: Task, space: str | None) -> Call[Models]:
    path = f"/models/{Task(task).value}/rollback"
    return Call("predictor", "POST", path, _as(Models), params={"space": space}, repeatable=False)


def dataset_events(name: str) -> str:
    """The path of a stream of events, as the three below."""
    return dataset_path(name, "/events")


def experiment_path(identifier: str, part: str = "") -> str:
    """Return the path of an experiment's route."""
    return f"/experiments/{path_part(identifier, 'identifier')}{part}"


def search_path(identifier: str, part: str = "") -> str:
    """Return the path of a search's route."""
    return f"/searches/{path_part(identifier, 'identifier')}{part}"


def experiment_events(identifier: str) -> str:
    return experiment_path(identifier, "/events")


def search_events(identifier: str) -> str:
    return search_path(identifier, "/events")


def datasets() -> Call[list[Dataset]]:
    return Call("trainer", "GET", "/datasets", _as(list[Dataset]))


def dataset_path(name: str, part: str = "") -> str:
    """The path of a data set's route; names may have blanks and other characters that a URL quotes."""
    return f"/datasets/{path_part(name, 'name')}{part}"


def dataset(name: str) -> Call[Dataset]:
    return Call("trainer", "GET", dataset_path(name), _as(Dataset))


def extract(name: str, options: Mapping[str, Any]) -> Call[Extraction]:
    return Call("trainer", "POST", dataset_path(name, "/extract"), _as(Extraction), json=dict(options))


def regroup(name: str, options: Mapping[str, Any]) -> Call[Extraction]:
    return Call("trainer", "POST", dataset_path(name, "/regroup"), _as(Extraction), json=dict(options))


def duplicates(name: str, options: Mapping[str, Any]) -> Call[list[DuplicateGroup]]:
    path = dataset_path(name, "/duplicates")
    return Call("trainer", "GET", path, _as(list[DuplicateGroup]), params=options)


def duplicates_sheet(name: str, options: Mapping[str, Any]) -> Call[bytes]:
    return Call("trainer", "GET", dataset_path(name, "/duplicates/sheet"), _content, params=options)


def create_experiment(request: Mapping[str, Any], key: str | None) -> Call[Experiment]:
    return _created("/experiments", Experiment, request, key)


def experiments() -> Call[list[Experiment]]:
    return Call("trainer", "GET", "/experiments", _as(list[Experiment]))


def experiment(identifier: str) -> Call[Experiment]:
    return Call("trainer", "GET", experiment_path(identifier), _as(Experiment))


def report(identifier: str, kind: ReportFormat) -> Call[str]:
    part = path_part(identifier, "identifier")
    path = f"/{'searches' if is_search(identifier) else 'experiments'}/{part}/report"
    return Call("trainer", "GET", path, _text, params={"format": kind})


def comparison(identifier: str) -> Call[list[HeadComparison]]:
    return Call("trainer", "GET", experiment_path(identifier, "/comparison"), _as(list[HeadComparison]))


def promote(identifier: str, refit: bool, force: bool) -> Call[dict[str, str]]:
    path, params = experiment_path(identifier, "/promote"), {"refit": refit, "force": force or None}
    return Call("trainer", "POST", path, _as(dict[str, str]), params=params)


def refit(identifier: str) -> Call[Experiment]:
    return Call("trainer", "POST", experiment_path(identifier, "/refit"), _as(Experiment))


def resume(identifier: str) -> Call[Experiment]:
    return Call("trainer", "POST", experiment_path(identifier, "/resume"), _as(Experiment))


def cancel(identifier: str) -> Call[Experiment]:
    return Call("trainer", "POST", experiment_path(identifier, "/cancel"), _as(Experiment))


def delete(identifier: str) -> Call[Experiment]:
    return Call("trainer", "DELETE", experiment_path(identifier), _as(Experiment))


def create_search(request: Mapping[str, Any], key: str | None) -> Call[Search]:
    return _created("/searches", Search, request, key)


def searches() -> Call[list[Search]]:
    return Call("trainer", "GET", "/searches", _as(list[Search]))


def search(identifier: str) -> Call[Search]:
    return Call("trainer", "GET", search_path(identifier), _as(Search))


def resume_search(identifier: str) -> Call[Search]:
    return Call("trainer", "POST", search_path(identifier, "/resume"), _as(Search))


def cancel_search(identifier: str) -> Call[Search]:
    return Call("trainer", "POST", search_path(identifier, "/cancel"), _as(Search))


def delete_search(identifier: str) -> Call[Search]:
    return Call("trainer", "DELETE", search_path(identifier), _as(Search))


def _created(path: str, type_: type[Answer], request: Mapping[str, Any], key: str | None) -> Call[Answer]:
    # With a key of its own each creation may be sent again without making a second one.
    return Call(
        "trainer",
        "POST",
        path,
        _as(type_),
        json=request_body(request),
        headers={"Idempotency-Key": key or uuid.uuid4().hex},
    )

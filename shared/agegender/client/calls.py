"""Every request that a client can make, as data; `Client` and `AsyncClient` only send them."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter

from agegender.client.training import (
    Dataset,
    DuplicateGroup,
    Experiment,
    Extraction,
    ReportFormat,
    Search,
    is_search,
)
from agegender.faces import FacesAnswer
from agegender.heads.head import Task
from agegender.predictions import AgeGenderAnswer, EmbeddingsAnswer, Models

Answer = TypeVar("Answer")
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
    body = {"space": space, "embeddings": [list(row) for row in embeddings]}
    return Call(
        "predictor", "POST", "/age-gender/embeddings", _as(EmbeddingsAnswer), params=options, json=body
    )


def faces(images: Sequence[bytes]) -> Call[FacesAnswer]:
    return Call("proxy", "POST", "/faces", _as(FacesAnswer), images=images)


def models() -> Call[Models]:
    return Call("predictor", "GET", "/models", _as(Models))


def roll_back(task: Task, space: str | None) -> Call[Models]:
    path = f"/models/{task.value}/rollback"
    return Call("predictor", "POST", path, _as(Models), params={"space": space}, repeatable=False)


def datasets() -> Call[list[Dataset]]:
    return Call("trainer", "GET", "/datasets", _as(list[Dataset]))


def dataset_path(name: str, part: str = "") -> str:
    """The path of a data set's route; names may have blanks and other characters that a URL quotes."""
    return f"/datasets/{quote(name, safe='')}{part}"


def dataset(name: str) -> Call[Dataset]:
    return Call("trainer", "GET", dataset_path(name), _as(Dataset))


def extract(name: str, options: Mapping[str, Any]) -> Call[Extraction]:
    return Call("trainer", "POST", dataset_path(name, "/extract"), _as(Extraction), json=dict(options))


def regroup(name: str, options: Mapping[str, Any]) -> Call[Extraction]:
    return Call("trainer", "POST", f"/datasets/{name}/regroup", _as(Extraction), json=dict(options))


def duplicates(name: str, options: Mapping[str, Any]) -> Call[list[DuplicateGroup]]:
    return Call("trainer", "GET", f"/datasets/{name}/duplicates", _as(list[DuplicateGroup]), params=options)


def duplicates_sheet(name: str, options: Mapping[str, Any]) -> Call[bytes]:
    return Call("trainer", "GET", f"/datasets/{name}/duplicates/sheet", _content, params=options)


def create_experiment(request: Mapping[str, Any], key: str | None) -> Call[Experiment]:
    return _created("/experiments", Experiment, request, key)


def experiments() -> Call[list[Experiment]]:
    return Call("trainer", "GET", "/experiments", _as(list[Experiment]))


def experiment(identifier: str) -> Call[Experiment]:
    return Call("trainer", "GET", f"/experiments/{identifier}", _as(Experiment))


def report(identifier: str, kind: ReportFormat) -> Call[str]:
    path = f"/{'searches' if is_search(identifier) else 'experiments'}/{identifier}/report"
    return Call("trainer", "GET", path, _text, params={"format": kind})


def promote(identifier: str, refit: bool) -> Call[dict[str, str]]:
    path, params = f"/experiments/{identifier}/promote", {"refit": refit}
    return Call("trainer", "POST", path, _as(dict[str, str]), params=params)


def refit(identifier: str) -> Call[Experiment]:
    return Call("trainer", "POST", f"/experiments/{identifier}/refit", _as(Experiment))


def resume(identifier: str) -> Call[Experiment]:
    return Call("trainer", "POST", f"/experiments/{identifier}/resume", _as(Experiment))


def cancel(identifier: str) -> Call[Experiment]:
    # Not repeatable: what was cancelled by the first would be deleted by the second.
    return Call("trainer", "DELETE", f"/experiments/{identifier}", _as(Experiment), repeatable=False)


def create_search(request: Mapping[str, Any], key: str | None) -> Call[Search]:
    return _created("/searches", Search, request, key)


def searches() -> Call[list[Search]]:
    return Call("trainer", "GET", "/searches", _as(list[Search]))


def search(identifier: str) -> Call[Search]:
    return Call("trainer", "GET", f"/searches/{identifier}", _as(Search))


def resume_search(identifier: str) -> Call[Search]:
    return Call("trainer", "POST", f"/searches/{identifier}/resume", _as(Search))


def cancel_search(identifier: str) -> Call[Search]:
    return Call("trainer", "DELETE", f"/searches/{identifier}", _as(Search), repeatable=False)


def _created(path: str, type_: type[Answer], request: Mapping[str, Any], key: str | None) -> Call[Answer]:
    # With a key of its own each creation may be sent again without making a second one.
    return Call(
        "trainer",
        "POST",
        path,
        _as(type_),
        json={name: value for name, value in request.items() if value is not None},
        headers={"Idempotency-Key": key or uuid.uuid4().hex},
    )

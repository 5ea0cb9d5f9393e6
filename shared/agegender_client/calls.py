"""Every request that a client can make, as data. `Client` and `AsyncClient` send them.

Functions check their arguments: `TypeError` and `ValueError` name what was received and what was expected.
"""

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Generic, Literal, TypeVar
from urllib.parse import quote, unquote

import httpx
from agegender.display import ReportFormat, TableFormat
from agegender.faces import FacesAnswer
from agegender.heads.head import Task
from agegender.predictions import AgeGenderAnswer, EmbeddingsAnswer, Models
from pydantic import TypeAdapter

from agegender_client.inputs import embedding_rows, type_of
from agegender_client.responses import (
    Dataset,
    DuplicateGroup,
    Evaluation,
    Experiment,
    Extraction,
    HeadComparison,
    LabelExport,
    Labels,
    PairedComparison,
    Pruning,
    Search,
    VideoRun,
    is_evaluation,
    is_search,
    is_video,
)

Answer = TypeVar("Answer")
Service = Literal["predictor", "trainer", "proxy"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """A request and the reader of its response.

    repeatable : the request may be sent again if the connection broke after it was sent.
    """

    service: Service
    method: str
    path: str
    read: Callable[[httpx.Response], Answer]
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Any = None
    images: Sequence[bytes] = ()
    upload: Path | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        return http.build_request(
            self.method,
            self.path,
            params={name: value for name, value in self.params.items() if value is not None},
            json=self.json,
            files=self._files(),
            headers=self.headers,
        )

    def _files(self) -> list[tuple[str, tuple[str, bytes | IO[bytes], str]]] | None:
        kind = "application/octet-stream"
        if self.upload is not None:
            return [("file", (self.upload.name, self.upload.open("rb"), kind))]
        return [("image", ("image", image, kind)) for image in self.images] or None


def create_video(video: str | Path, options: Mapping[str, Any], key: str | None) -> Call[VideoRun]:
    path = Path(video)
    headers = {"Idempotency-Key": key or uuid.uuid4().hex}
    return Call("trainer", "POST", "/videos", _as(VideoRun), params=options, upload=path, headers=headers)


def videos() -> Call[list[VideoRun]]:
    return Call("trainer", "GET", "/videos", _list_of(VideoRun))


def video(identifier: str, action: Literal["", "/resume", "/cancel"] = "") -> Call[VideoRun]:
    """Return the call that shows a video, or that does something to it."""
    return Call("trainer", "POST" if action else "GET", run_path(identifier, action), _as(VideoRun))


def delete_video(identifier: str) -> Call[VideoRun]:
    return Call("trainer", "DELETE", run_path(identifier), _as(VideoRun))


def video_answer(identifier: str, kind: Literal["json", "csv", "summary", "annotated"]) -> Call[bytes]:
    table = kind in ("json", "csv")
    path = run_path(identifier, "/answer" if table else f"/{kind}")
    return Call("trainer", "GET", path, _content, params={"format": kind} if table else {})


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


def faces(images: Sequence[bytes], options: Mapping[str, Any]) -> Call[FacesAnswer]:
    return Call("proxy", "POST", "/faces", _as(FacesAnswer), params=options, images=images)


def models() -> Call[Models]:
    return Call("predictor", "GET", "/models", _as(Models))


def roll_back(task: Task, space: str | None) -> Call[Models]:
    path = f"/models/{Task(task).value}/rollback"
    return Call("predictor", "POST", path, _as(Models), params={"space": space}, repeatable=False)


def datasets() -> Call[list[Dataset]]:
    return Call("trainer", "GET", "/datasets", _list_of(Dataset))


def dataset(name: str) -> Call[Dataset]:
    return Call("trainer", "GET", dataset_path(name), _as(Dataset))


def extract(name: str, options: Mapping[str, Any]) -> Call[Extraction]:
    return Call("trainer", "POST", dataset_path(name, "/extract"), _as(Extraction), json=dict(options))


def cancel_extraction(name: str) -> Call[list[Extraction]]:
    return Call("trainer", "POST", dataset_path(name, "/cancel"), _as(list[Extraction]))


def delete_extraction(name: str) -> Call[list[Extraction]]:
    return Call("trainer", "DELETE", dataset_path(name, "/extract"), _as(list[Extraction]))


def import_original(name: str, options: Mapping[str, Any]) -> Call[Extraction]:
    return Call("trainer", "POST", dataset_path(name, "/import"), _as(Extraction), json=dict(options))


def labels(name: str, options: Mapping[str, Any]) -> Call[Labels]:
    """Return the call that proposes how labels are read. `map` is a dict, or text such as ``0=female``."""
    genders = options.get("map")
    if isinstance(genders, Mapping):
        options = {**options, "map": ",".join(f"{text}={gender}" for text, gender in genders.items())}
    return Call("trainer", "GET", dataset_path(name, "/labels"), _as(Labels), params=options)


def write_labels(name: str, options: Mapping[str, Any]) -> Call[Labels]:
    return Call("trainer", "POST", dataset_path(name, "/labels"), _as(Labels), json=dict(options))


def export_labels(name: str, replace: bool) -> Call[LabelExport]:
    path, params = dataset_path(name, "/labels/export"), {"replace": replace or None}
    return Call("trainer", "POST", path, _as(LabelExport), params=params)


def regroup(name: str, options: Mapping[str, Any]) -> Call[Extraction]:
    return Call("trainer", "POST", dataset_path(name, "/regroup"), _as(Extraction), json=dict(options))


def duplicates(name: str, options: Mapping[str, Any]) -> Call[list[DuplicateGroup]]:
    path = dataset_path(name, "/duplicates")
    return Call("trainer", "GET", path, _as(list[DuplicateGroup]), params=options)


def duplicates_sheet(name: str, options: Mapping[str, Any]) -> Call[bytes]:
    return Call("trainer", "GET", dataset_path(name, "/duplicates/sheet"), _content, params=options)


def create_experiment(request: Mapping[str, Any], key: str | None) -> Call[Experiment]:
    return _create("/experiments", Experiment, request, key)


def create_search(request: Mapping[str, Any], key: str | None) -> Call[Search]:
    return _create("/searches", Search, request, key)


def create_evaluation(request: Mapping[str, Any], key: str | None) -> Call[Evaluation]:
    return _create("/evaluations", Evaluation, request, key)


def evaluations() -> Call[list[Evaluation]]:
    return Call("trainer", "GET", "/evaluations", _list_of(Evaluation))


def evaluation(identifier: str, action: Literal["", "/resume", "/cancel"] = "") -> Call[Evaluation]:
    """Return the call that shows an evaluation, or that does something to it."""
    return Call("trainer", "POST" if action else "GET", run_path(identifier, action), _as(Evaluation))


def delete_evaluation(identifier: str) -> Call[Evaluation]:
    return Call("trainer", "DELETE", run_path(identifier), _as(Evaluation))


def experiments() -> Call[list[Experiment]]:
    return Call("trainer", "GET", "/experiments", _list_of(Experiment))


def searches() -> Call[list[Search]]:
    return Call("trainer", "GET", "/searches", _list_of(Search))


def experiment(identifier: str, action: Literal["", "/resume", "/cancel", "/refit"] = "") -> Call[Experiment]:
    """Return the call that shows an experiment, or that does something to it."""
    path = experiment_path(identifier, action)
    return Call("trainer", "POST" if action else "GET", path, _as(Experiment))


def search(identifier: str, action: Literal["", "/resume", "/cancel"] = "") -> Call[Search]:
    """Return the call that shows a search, or that does something to it."""
    return Call("trainer", "POST" if action else "GET", search_path(identifier, action), _as(Search))


def delete_experiment(identifier: str) -> Call[Experiment]:
    return Call("trainer", "DELETE", experiment_path(identifier), _as(Experiment))


def delete_search(identifier: str) -> Call[Search]:
    return Call("trainer", "DELETE", search_path(identifier), _as(Search))


def report(identifier: str, report_format: ReportFormat) -> Call[str]:
    """Return the call for the report of a run."""
    return Call("trainer", "GET", run_path(identifier, "/report"), _text, params={"format": report_format})


def predictions(identifier: str, table_format: TableFormat) -> Call[bytes]:
    """Return the call for the predictions of an experiment or an evaluation."""
    path = run_path(identifier, "/predictions")
    return Call("trainer", "GET", path, _content, params={"format": table_format})


def onnx_graph(identifier: str, options: Mapping[str, Any]) -> Call[bytes]:
    return Call("trainer", "GET", experiment_path(identifier, "/onnx"), _content, params=options)


def compare(identifiers: Sequence[str]) -> Call[PairedComparison]:
    first, *others = identifiers
    path = experiment_path(first, "/paired-comparison")
    return Call("trainer", "GET", path, _as(PairedComparison), params={"with": others})


def describe(identifier: str, changes: Mapping[str, str | None]) -> Call[Experiment]:
    return Call("trainer", "PATCH", experiment_path(identifier), _as(Experiment), json=dict(changes))


def comparison(identifier: str) -> Call[list[HeadComparison]]:
    return Call("trainer", "GET", experiment_path(identifier, "/comparison"), _as(list[HeadComparison]))


def promote(identifier: str, refit: bool, force: bool) -> Call[dict[str, str]]:
    path = run_path(identifier, "/promote")
    params = {"refit": None if is_evaluation(identifier) else refit, "force": force or None}
    return Call("trainer", "POST", path, _as(dict[str, str]), params=params)


def prune(older_than_days: int, dry_run: bool) -> Call[Pruning]:
    params = {"older_than_days": older_than_days, "dry_run": dry_run}
    return Call("trainer", "POST", "/prune", _as(Pruning), params=params)


def dataset_path(name: str, part: str = "") -> str:
    """Return the path of a data set's route, with the name quoted."""
    return f"/datasets/{_path_part(name, 'name')}{part}"


def experiment_path(identifier: str, part: str = "") -> str:
    return f"/experiments/{_path_part(identifier, 'identifier')}{part}"


def search_path(identifier: str, part: str = "") -> str:
    return f"/searches/{_path_part(identifier, 'identifier')}{part}"


def run_path(identifier: str, part: str = "") -> str:
    """Return the path of a run's route; its id shows its kind."""
    kind = "searches" if is_search(str(identifier)) else "experiments"
    kind = "evaluations" if is_evaluation(str(identifier)) else kind
    kind = "videos" if is_video(str(identifier)) else kind
    return f"/{kind}/{_path_part(identifier, 'identifier')}{part}"


def restore(identifier: str) -> Call[Experiment | Search | Evaluation]:
    """Return the call that brings a deleted run back."""
    kind: Any = Search if is_search(identifier) else Evaluation if is_evaluation(identifier) else Experiment
    return Call("trainer", "POST", run_path(identifier, "/restore"), _as(kind))


def _path_part(value: object, argument: str) -> str:
    """Return an identifier or name as one segment of a URL's path."""
    if not isinstance(value, str):
        own = getattr(value, "id", None) or getattr(value, "name", None)
        hint = f", such as {own!r}" if isinstance(own, str) else ""
        raise TypeError(f"{argument}: got {type_of(value)}; expected a str{hint}")
    if not value or set(value) <= {"."}:
        raise ValueError(f"{argument}: got {value!r}; expected the {argument} as the service lists it")
    return quote(value, safe="")


def _create(path: str, type_: type[Answer], request: object, key: str | None) -> Call[Answer]:
    if not isinstance(request, Mapping):
        raise TypeError(f"request: got {type_of(request)}; expected a dict such as {{'dataset': 'Adience'}}")
    body = {name: value for name, value in request.items() if value is not None}
    # The key makes the request repeatable: the trainer creates at most one experiment per key.
    headers = {"Idempotency-Key": key or uuid.uuid4().hex}
    return Call("trainer", "POST", path, _as(type_), json=body, headers=headers)


def _as(type_: type[Answer]) -> Callable[[httpx.Response], Answer]:
    adapter = TypeAdapter(type_)
    return lambda response: adapter.validate_json(response.content)


def _list_of(type_: type[Answer]) -> Callable[[httpx.Response], list[Answer]]:
    """Return a reader of a list that logs a warning if the trainer skipped unreadable records."""
    adapter = TypeAdapter(list[type_])  # type: ignore[valid-type]

    def read(response: httpx.Response) -> list[Answer]:
        if skipped := response.headers.get("X-Unreadable-Records"):
            _log.warning("The trainer cannot read these records, see its log: %s", unquote(skipped))
        return adapter.validate_json(response.content)

    return read


def _content(response: httpx.Response) -> bytes:
    return response.content


def _text(response: httpx.Response) -> str:
    return response.text

"""The client for asyncio. synchronous.py is generated from this file."""

from asyncio import to_thread
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

from agegender.display import ReportFormat, TableFormat
from agegender.faces import FacesAnswer, ImageFaces
from agegender.heads.head import Task
from agegender.predictions import AgeGenderAnswer, EmbeddingsAnswer, ImageAnswer, Models

from agegender_client import calls
from agegender_client.async_transport import AsyncTransport
from agegender_client.inputs import Image, SomeImage, is_one_image, read_image, read_images, sole
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
)


class AsyncClient(AsyncTransport):
    """Client of the predictor, the embedder-proxy and the trainer.

    Every method raises `agegender.errors.Problem` if a service cannot be reached or rejects the request.

    Parameters
    ----------
    settings : by default those of the environment. Invalid ones raise the problem ``bad-settings``.

    Examples
    --------
    >>> async with AsyncClient() as client:  # doctest: +SKIP
    ...     answer = await client.predict("photo.jpg")
    ...     answer.faces[0].age.mean
    """

    @overload
    async def predict(self, images: Image, **options: Any) -> ImageAnswer: ...

    @overload
    async def predict(
        self, images: list[SomeImage] | tuple[SomeImage, ...], **options: Any
    ) -> AgeGenderAnswer: ...

    async def predict(self, images: Any, **options: Any) -> ImageAnswer | AgeGenderAnswer:
        """Estimate age and gender of each face.

        Parameters
        ----------
        images : a path (`str` or `Path`), bytes, a binary file object, or a list of these.
        options : options of `POST /age-gender`, such as ``coverage=0.8``.

        Returns an `ImageAnswer` for one image. For a list returns an `AgeGenderAnswer` with one entry per
        image, in the same order; the entry of an image with a problem has `ok == False`, `problem` and no
        faces.

        Raises `Problem`, also for the problem of a lone image; `TypeError` for images of other types;
        `OSError` for a file that cannot be read.
        """
        answer = await self._send(calls.predict(await to_thread(read_images, images), options))
        return sole(answer.images) if is_one_image(images) else answer

    async def annotate(self, image: Image, **options: Any) -> bytes:
        """Return the image with boxes and labels as a PNG file. Takes the arguments of `predict`."""
        return await self._send(calls.annotate(await to_thread(read_image, image), options))

    async def predict_embeddings(
        self, space: str, embeddings: Sequence[Sequence[float]], **options: Any
    ) -> EmbeddingsAnswer:
        """Estimate age and gender from embeddings.

        Parameters
        ----------
        space : id of the embedding space.
        embeddings : lists of numbers, or an array [faces, dimension].
        options : options of `POST /age-gender/embeddings`.
        """
        return await self._send(calls.predict_embeddings(space, embeddings, options))

    @overload
    async def faces(self, images: Image, **options: Any) -> ImageFaces: ...

    @overload
    async def faces(self, images: list[SomeImage] | tuple[SomeImage, ...], **options: Any) -> FacesAnswer: ...

    async def faces(self, images: Any, **options: Any) -> ImageFaces | FacesAnswer:
        """Detect and embed faces. Takes images and raises errors as `predict` does.

        options : options of `POST /faces`, such as ``max_faces=1`` and ``faces="whole"``.

        The response for a list names the space of the embeddings.
        """
        answer = await self._send(calls.faces(await to_thread(read_images, images), options))
        return sole(answer.images) if is_one_image(images) else answer

    async def models(self) -> Models:
        """Return the served heads of each embedding space."""
        return await self._send(calls.models())

    async def roll_back(self, task: Task, space: str | None = None) -> Models:
        """Serve the previous head of a task. Each call goes further back, none forward."""
        return await self._send(calls.roll_back(task, space))

    async def datasets(self) -> list[Dataset]:
        return await self._send(calls.datasets())

    async def dataset(self, name: str) -> Dataset:
        return await self._send(calls.dataset(name))

    async def extract(self, name: str, **options: Any) -> Extraction:
        """Start or resume an extraction. `options` are the body of `POST /datasets/{name}/extract`."""
        return await self._send(calls.extract(name, options))

    async def cancel_extraction(self, name: str) -> list[Extraction]:
        """Cancel the running extractions of a data set. Returns all of its extractions."""
        return await self._send(calls.cancel_extraction(name))

    async def delete_extraction(self, name: str) -> list[Extraction]:
        """Delete the records and unfinished work of ended extractions. Extracted faces are kept."""
        return await self._send(calls.delete_extraction(name))

    async def import_original(self, name: str, **options: Any) -> Extraction:
        """Import embeddings of the original project (`POST /datasets/{name}/import`)."""
        return await self._send(calls.import_original(name, options))

    async def labels(self, name: str, **options: Any) -> Labels:
        """Return how the labels in a folder are read, without writing.

        options : those of `GET /datasets/{name}/labels`, such as ``age_column="years"`` and
            ``map={"0": "female", "1": "male"}``. What they do not state is guessed.
        """
        return await self._send(calls.labels(name, options))

    async def write_labels(self, name: str, **options: Any) -> Labels:
        """Write labels.csv from the labels in a folder. Takes the options of `labels`."""
        return await self._send(calls.write_labels(name, options))

    async def export_labels(self, name: str, replace: bool = False) -> LabelExport:
        """Write metadata.csv, so that `datasets` of Hugging Face reads the folder as an image folder.

        replace : replace a metadata.csv that is no export.
        """
        return await self._send(calls.export_labels(name, replace))

    async def regroup(self, name: str, **options: Any) -> Extraction:
        """Recompute subjects and folds. `options` are the body of `POST /datasets/{name}/regroup`."""
        return await self._send(calls.regroup(name, options))

    async def duplicates(self, name: str, **options: Any) -> list[DuplicateGroup]:
        """Return the groups of near-duplicates, largest first.

        options : query options of `GET /datasets/{name}/duplicates`, such as ``space``.
        """
        return await self._send(calls.duplicates(name, options))

    async def duplicates_sheet(self, name: str, **options: Any) -> bytes:
        """Return a JPEG that shows the groups. Takes the options of `duplicates`, `first` and `groups`."""
        return await self._send(calls.duplicates_sheet(name, options))

    def watch_extraction(self, name: str) -> AsyncIterator[Extraction]:
        """Yield each change of a data set's extractions until none is running."""
        return self._events(calls.dataset_path(name, "/events"), Extraction)

    async def create_experiment(self, request: Mapping[str, Any], key: str | None = None) -> Experiment:
        """Create an experiment.

        Parameters
        ----------
        request : body of `POST /experiments`.
        key : idempotency key. A second request with the same key returns the first experiment.
        """
        return await self._send(calls.create_experiment(request, key))

    async def experiments(self) -> list[Experiment]:
        return await self._send(calls.experiments())

    async def experiment(self, identifier: str) -> Experiment:
        return await self._send(calls.experiment(identifier))

    def watch(self, identifier: str) -> AsyncIterator[Experiment]:
        """Yield each change of an experiment until it has ended, also across restarts of the trainer.

        Raises ``interrupted`` 503 after five minutes without an answer. The experiment then continues.
        """
        return self._events(calls.experiment_path(identifier, "/events"), Experiment)

    async def report(self, identifier: str, kind: ReportFormat = "json") -> str:
        """Return the report of an experiment, a search or an evaluation.

        kind : format of the report.
        """
        return await self._send(calls.report(identifier, kind))

    async def predictions(self, identifier: str, kind: TableFormat = "csv") -> bytes:
        """Return the prediction of each face of an experiment, out of fold, or of an evaluation.

        kind : format of the table. Its columns are documented in docs/training.md.
        """
        return await self._send(calls.predictions(identifier, kind))

    async def onnx_graph(self, identifier: str, **options: Any) -> bytes:
        """Return heads as one ONNX graph, with standardisation, ensemble and calibration.

        identifier : of an experiment or a calibration, or ``served``.
        options : query options of `GET /experiments/{id}/onnx`: `space` and `coverage`.
        """
        return await self._send(calls.onnx_graph(identifier, options))

    async def compare(self, *identifiers: str) -> PairedComparison:
        """Compare experiments face by face, on the faces that all of them predicted out of fold."""
        return await self._send(calls.compare(identifiers))

    async def describe(self, identifier: str, **changes: str | None) -> Experiment:
        """Change the `name` or the `notes` of an experiment."""
        return await self._send(calls.describe(identifier, changes))

    async def comparison(self, identifier: str) -> list[HeadComparison]:
        """Compare the served heads with those that `promote` would serve instead."""
        return await self._send(calls.comparison(identifier))

    async def promote(self, identifier: str, refit: bool = True, force: bool = False) -> dict[str, str]:
        """Serve the heads of an experiment or of a calibration. Returns the version of each task.

        Parameters
        ----------
        refit : also train on all faces, and serve that ensemble if it is better on held-out folds.
        force : promote even if `comparison` gives reasons against it; without it they raise the problem
            ``promotion-needs-confirmation``.
        """
        return await self._send(calls.promote(identifier, refit, force))

    async def refit(self, identifier: str) -> Experiment:
        """Also train on all faces, so that the report shows which ensemble is better on held-out folds."""
        return await self._send(calls.experiment(identifier, "/refit"))

    async def resume(self, identifier: str) -> Experiment:
        """Resume a failed or cancelled experiment."""
        return await self._send(calls.experiment(identifier, "/resume"))

    async def cancel(self, identifier: str) -> Experiment:
        """Cancel a running experiment. One that has ended is returned unchanged."""
        return await self._send(calls.experiment(identifier, "/cancel"))

    async def delete(self, identifier: str) -> Experiment:
        """Delete an experiment that has ended and is not served. `restore` brings it back for a week."""
        return await self._send(calls.delete_experiment(identifier))

    async def restore(self, identifier: str) -> Experiment | Search | Evaluation:
        """Bring back an experiment, a search or an evaluation that was deleted in the last week."""
        return await self._send(calls.restore(identifier))

    async def prune(self, older_than_days: int, dry_run: bool = False) -> Pruning:
        """Delete runs, videos included, and heads unchanged for so long that nothing needs any more.

        dry_run : only return what would be deleted.
        """
        return await self._send(calls.prune(older_than_days, dry_run))

    async def create_evaluation(self, request: Mapping[str, Any], key: str | None = None) -> Evaluation:
        """Judge heads on labelled faces that they never saw; `request` is the body of `POST /evaluations`.

        key : idempotency key. A second request with the same key returns the first evaluation.
        """
        return await self._send(calls.create_evaluation(request, key))

    async def evaluations(self) -> list[Evaluation]:
        return await self._send(calls.evaluations())

    async def evaluation(self, identifier: str) -> Evaluation:
        return await self._send(calls.evaluation(identifier))

    def watch_evaluation(self, identifier: str) -> AsyncIterator[Evaluation]:
        """Yield each change of an evaluation until it has ended."""
        return self._events(calls.run_path(identifier, "/events"), Evaluation)

    async def resume_evaluation(self, identifier: str) -> Evaluation:
        """Resume a failed or cancelled evaluation."""
        return await self._send(calls.evaluation(identifier, "/resume"))

    async def cancel_evaluation(self, identifier: str) -> Evaluation:
        """Cancel a running evaluation. One that has ended is returned unchanged."""
        return await self._send(calls.evaluation(identifier, "/cancel"))

    async def delete_evaluation(self, identifier: str) -> Evaluation:
        """Delete an evaluation that has ended. Heads that it calibrated stay."""
        return await self._send(calls.delete_evaluation(identifier))

    async def create_search(self, request: Mapping[str, Any], key: str | None = None) -> Search:
        """Create a hyperparameter search.

        Parameters
        ----------
        request : body of `POST /searches`.
        key : idempotency key. A second request with the same key returns the first search.
        """
        return await self._send(calls.create_search(request, key))

    async def searches(self) -> list[Search]:
        return await self._send(calls.searches())

    async def search(self, identifier: str) -> Search:
        return await self._send(calls.search(identifier))

    def watch_search(self, identifier: str) -> AsyncIterator[Search]:
        """Yield each change of a search until it has ended."""
        return self._events(calls.search_path(identifier, "/events"), Search)

    async def resume_search(self, identifier: str) -> Search:
        """Resume a failed or cancelled search."""
        return await self._send(calls.search(identifier, "/resume"))

    async def cancel_search(self, identifier: str) -> Search:
        """Cancel a running search. One that has ended is returned unchanged."""
        return await self._send(calls.search(identifier, "/cancel"))

    async def delete_search(self, identifier: str) -> Search:
        """Delete a search that has ended, with all its files."""
        return await self._send(calls.delete_search(identifier))

    async def create_video(self, video: str | Path, key: str | None = None, **options: Any) -> VideoRun:
        """Upload a video file, which workers answer once per person.

        Parameters
        ----------
        video : path of the file.
        key : idempotency key; the same key never creates two runs.
        options : options of `POST /videos`, such as ``annotated=True``.

        Raises `OSError` for a file that cannot be read.
        """
        return await self._send(calls.create_video(video, options, key))

    async def videos(self) -> list[VideoRun]:
        """List the runs of videos, newest first."""
        return await self._send(calls.videos())

    async def video(self, identifier: str) -> VideoRun:
        """Return how far a video is."""
        return await self._send(calls.video(identifier))

    def watch_video(self, identifier: str) -> AsyncIterator[VideoRun]:
        """Yield the state of a video at every change until it has ended."""
        return self._events(calls.run_path(identifier, "/events"), VideoRun)

    async def resume_video(self, identifier: str) -> VideoRun:
        """Resume a failed or cancelled video."""
        return await self._send(calls.video(identifier, "/resume"))

    async def cancel_video(self, identifier: str) -> VideoRun:
        """Cancel a video. Segments that are searched stay."""
        return await self._send(calls.video(identifier, "/cancel"))

    async def delete_video(self, identifier: str) -> VideoRun:
        """Delete a video that has ended, with the uploaded file. It cannot be restored."""
        return await self._send(calls.delete_video(identifier))

    async def video_answer(
        self, identifier: str, kind: Literal["json", "csv", "summary", "annotated"] = "json"
    ) -> bytes:
        """Return the persons of a video as JSON or CSV, the plot as SVG, or the annotated copy as MP4."""
        return await self._send(calls.video_answer(identifier, kind))

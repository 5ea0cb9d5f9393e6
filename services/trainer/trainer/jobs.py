"""The queue jobs: the functions that workers call, and the kinds of runs whose steps they are.

Arguments are names, because the truth lies on disk. Each job may run again at any time, on any worker; it
skips what is done already. Imports that bring in torch, matplotlib or Optuna stay inside the functions, so
that the API starts without them.
"""

import gc
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from agegender.errors import Problem

from trainer.datasets.embedding_set import EmbeddingSet
from trainer.evaluations.evaluation import Evaluations, evaluation_dir
from trainer.experiments.experiment import METRICS, Experiment, experiment_dir, fold_dir, refit_dir
from trainer.experiments.experiment_data import load_faces, load_faces_of, require_same_data
from trainer.experiments.predictions import out_of_fold_columns, write_predictions
from trainer.experiments.promote import awaits_promotion, promote
from trainer.experiments.served import serves_all
from trainer.experiments.steps import Experiments
from trainer.extraction.extraction import Extraction, attempt_dir, current_attempt
from trainer.extraction.plan import Extractions, fail, run_plan
from trainer.runs.attempt import Attempt, Cancelled, carry_out, store_failure
from trainer.runs.run import FAILURE, REPORT, Kind, R, S
from trainer.runs.scheduler import connect, job_queue, schedule
from trainer.searches.search import (
    RESULT,
    merged_search_subjects,
    recorded_search_faces,
    search_dir,
    trial_dir,
)
from trainer.searches.study import Searches
from trainer.settings import TrainerSettings
from trainer.videos.video import ANSWER, JOIN, VideoRun, Videos, segment_path, step_dir, video_dir

if TYPE_CHECKING:
    from trainer.training.bank import TrainingDevice

log = structlog.get_logger(__name__)

_REPORT_FAILED = "the report failed: "


@cache
def preload() -> None:
    """Import once, and not in each job, what jobs need: that takes longer than to train on a few faces.

    Nothing is computed here: threads that torch or OpenMP had started would be missing in a forked job.
    """
    gc.disable()  # imports make hardly any garbage, and looking for it takes a quarter of their time
    import sklearn.model_selection  # noqa: F401
    import torch._inductor.config  # noqa: F401

    import trainer.evaluations.judge
    import trainer.experiments.fold
    import trainer.reports.report
    import trainer.searches.trial
    import trainer.videos.search  # noqa: F401

    gc.freeze()  # jobs share the memory of what they do not touch, and the collector would touch it
    gc.enable()


def train_fold(experiment_id: str, fold: int) -> None:
    """Train and evaluate the ensemble of a held-out fold."""
    from trainer.experiments.fold import run_fold

    directory = fold_dir(TrainerSettings().data_dir, experiment_id, fold)
    _train(directory, partial(EXPERIMENTS.active_run, name=experiment_id), partial(run_fold, fold=fold))


def refit_fold(experiment_id: str, fold: int) -> None:
    """Train the ensemble of a held-out fold without a validation split, for comparison."""
    from trainer.experiments.fold import run_refit

    directory = refit_dir(TrainerSettings().data_dir, experiment_id, fold)
    _train(directory, partial(EXPERIMENTS.active_refit, name=experiment_id), partial(run_refit, fold=fold))


def fit_final(experiment_id: str) -> None:
    """Choose which ensemble is served, and train it on all faces if that is the better one."""
    from trainer.reports.report import write_final

    directory = refit_dir(TrainerSettings().data_dir, experiment_id, None)
    _train(directory, partial(EXPERIMENTS.active_refit, name=experiment_id), write_final)


def write_report(experiment_id: str) -> None:
    """Write the report of an experiment, and its predictions."""
    from trainer.reports.report import summarise, write_reports

    data_dir = TrainerSettings().data_dir
    experiment = EXPERIMENTS.active_run(data_dir, experiment_id)
    if experiment is None:
        return
    directory = experiment_dir(data_dir, experiment_id)

    def work() -> None:
        write_predictions(directory, out_of_fold_columns(data_dir, experiment))
        write_reports(data_dir, experiment, summarise(data_dir, experiment))  # marks the end

    carry_out(work, store_failure(directory, _REPORT_FAILED), experiment=experiment_id)


def serve_better(experiment_id: str) -> None:
    """Serve the ensemble that the refits found to be better.

    A promotion or rollback that was made in the meantime is the later decision, and stays.
    """
    data_dir = TrainerSettings().data_dir
    experiment = EXPERIMENTS.active_run(data_dir, experiment_id)
    if experiment is None or not awaits_promotion(data_dir, experiment):
        return
    if not serves_all(data_dir, experiment):
        log.info("promotion dropped because other heads are served by now", experiment=experiment_id)
        EXPERIMENTS.change(data_dir, experiment_id, lambda run: run.model_copy(update={"promote": False}))
        return
    fail_run = store_failure(experiment_dir(data_dir, experiment_id), "the better heads are not served: ")
    carry_out(lambda: promote(data_dir, experiment), fail_run, experiment=experiment_id)


def run_trial(search_id: str, number: int) -> None:
    """Evaluate one trial of a search."""
    from trainer.searches.trial import fail_trial
    from trainer.searches.trial import run_trial as evaluate

    settings = TrainerSettings()
    data_dir = settings.data_dir
    search = SEARCHES.active_run(data_dir, search_id)
    if search is None:
        return
    directory = trial_dir(data_dir, search_id, number)

    def work() -> None:
        attempt = Attempt(directory, lambda: SEARCHES.active_run(data_dir, search_id) is not None)
        faces = load_faces(
            data_dir,
            search.datasets,
            search.space,
            search.image_set,
            merged_search_subjects(data_dir, search),
            recorded_search_faces(data_dir, search),
            search.data_sha256,
        )
        evaluate(data_dir, search, number, faces, attempt, _device(settings))

    def fail_run(problem: Problem) -> None:
        fail_trial(data_dir, search, number, problem.detail)

    over = (directory / RESULT).exists()
    if over or carry_out(work, fail_run, search=search_id, trial=number).is_over:
        _schedule(SEARCHES, settings, search_id)


def write_search_report(search_id: str) -> None:
    """Write the report of a search."""
    from trainer.searches.trial import write_search_reports

    data_dir = TrainerSettings().data_dir
    search = SEARCHES.active_run(data_dir, search_id)
    if search is not None:
        fail_run = store_failure(search_dir(data_dir, search_id), _REPORT_FAILED)
        carry_out(lambda: write_search_reports(data_dir, search), fail_run, search=search_id)


def plan_extraction(name: str, attempt_id: str) -> None:
    """Divide the images of a data set into shards."""
    _extract(name, attempt_id, "plan", run_plan)


def embed_shard(name: str, attempt_id: str, shard: int) -> None:
    """Embed the images of one shard."""
    from trainer.extraction.embed import run_shard

    step = partial(run_shard, shard=shard, settings=TrainerSettings())
    _extract(name, attempt_id, f"shard-{shard:05d}", step)


def merge_shards(name: str, attempt_id: str) -> None:
    """Write the extracted data set from all chunks."""
    from trainer.extraction.merge import run_merge

    _extract(name, attempt_id, "merge", run_merge)


def regroup_faces(name: str, attempt_id: str) -> None:
    """Find subjects and folds of an extracted data set again."""
    from trainer.extraction.merge import run_regroup

    _extract(name, attempt_id, "regroup", run_regroup)


def import_original_faces(name: str, attempt_id: str) -> None:
    """Write an extracted data set from the original project's file."""
    from trainer.extraction.merge import run_import

    _extract(name, attempt_id, "import", run_import)


def judge_heads(evaluation_id: str) -> None:
    """Judge heads on the faces of a data set, and calibrate them if requested."""
    from trainer.evaluations.judge import run_evaluation

    settings = TrainerSettings()
    data_dir = settings.data_dir
    evaluation = EVALUATIONS.active_run(data_dir, evaluation_id)
    if evaluation is None or (evaluation_dir(data_dir, evaluation_id) / REPORT).exists():
        return
    directory = evaluation_dir(data_dir, evaluation_id)

    def work() -> None:
        attempt = Attempt(directory, lambda: EVALUATIONS.active_run(data_dir, evaluation_id) is not None)
        space, image_set = evaluation.space, evaluation.image_set
        faces = load_faces(data_dir, [evaluation.dataset], space, image_set)
        require_same_data(data_dir, evaluation.data_sha256, space, image_set)
        run_evaluation(data_dir, settings.heads_dir, evaluation, faces, attempt)

    carry_out(work, store_failure(directory), evaluation=evaluation_id)


def search_segment(run_id: str, segment: int) -> None:
    """Track the faces in a segment of a video."""
    from trainer.videos.search import search

    settings = TrainerSettings()
    directory = video_dir(settings.data_dir, run_id)
    if segment_path(directory, segment).exists() or (directory / ANSWER).exists():
        return

    def work(run: VideoRun, attempt: Attempt) -> None:
        search(settings, run, segment, attempt)

    _video_step(settings, run_id, f"segment-{segment}", work)


def answer_video(run_id: str) -> None:
    """Join the tracks of a video, and write its answer."""
    from trainer.videos.search import write_answer

    settings = TrainerSettings()

    def work(run: VideoRun, attempt: Attempt) -> None:
        write_answer(settings.data_dir, run, attempt)

    _video_step(settings, run_id, JOIN, work)


EXPERIMENTS = Experiments(
    train_fold=train_fold,
    refit_fold=refit_fold,
    fit_final=fit_final,
    write_report=write_report,
    serve_better=serve_better,
)
SEARCHES = Searches(run_trial=run_trial, write_report=write_search_report)
EXTRACTIONS = Extractions(
    plan=plan_extraction,
    embed_shard=embed_shard,
    merge=merge_shards,
    regroup=regroup_faces,
    import_original=import_original_faces,
)
EVALUATIONS = Evaluations(judge=judge_heads)
VIDEOS = Videos(search_segment=search_segment, answer=answer_video)
KINDS: tuple[Kind[Any, Any], ...] = (EXPERIMENTS, SEARCHES, EXTRACTIONS, EVALUATIONS, VIDEOS)


class _Training(Protocol):
    """Training that ends with METRICS in its folder."""

    def __call__(
        self,
        data_dir: Path,
        experiment: Experiment,
        faces: EmbeddingSet,
        *,
        attempt: Attempt,
        device: "TrainingDevice",
    ) -> None: ...


def _train(directory: Path, find: Callable[[Path], Experiment | None], training: _Training) -> None:
    """Train into `directory`, unless that is done; then enqueue what follows.

    find : returns the experiment, None if it does not need this training any more.
    """
    settings = TrainerSettings()
    data_dir = settings.data_dir
    experiment = find(data_dir)
    if experiment is None:
        return

    def work() -> None:
        attempt = Attempt(directory, lambda: find(data_dir) is not None)
        faces = load_faces_of(data_dir, experiment)
        training(data_dir, experiment, faces, attempt=attempt, device=_device(settings))

    of = str(directory.relative_to(data_dir))
    if (directory / METRICS).exists() or carry_out(work, store_failure(directory), of=of).is_over:
        _schedule(EXPERIMENTS, settings, experiment.id)


def _extract(
    name: str, attempt_id: str, step: str, work: Callable[[Path, Extraction, Attempt], None]
) -> None:
    """Do one step of an extraction's attempt, unless that is over; then enqueue what follows."""
    settings = TrainerSettings()
    data_dir = settings.data_dir
    current = partial(current_attempt, data_dir, name, attempt_id)
    extraction = current()
    if extraction is None:
        return

    def attempted() -> None:
        directory = attempt_dir(data_dir, extraction) / step
        work(data_dir, extraction, Attempt(directory, lambda: current() is not None))

    def fail_run(problem: Problem) -> None:
        with suppress(Cancelled):
            if (latest := current()) is not None:
                fail(data_dir, latest, problem)

    if carry_out(attempted, fail_run, extraction=name, step=step).is_over:
        _schedule(EXTRACTIONS, settings, name)


def _video_step(
    settings: TrainerSettings, run_id: str, step: str, work: Callable[[VideoRun, Attempt], None]
) -> None:
    """Do one step of a video, unless the run is over; then enqueue what follows."""
    data_dir = settings.data_dir
    directory = video_dir(data_dir, run_id)

    def needed() -> VideoRun | None:
        over = (directory / FAILURE).exists() or (directory / REPORT).exists()
        return None if over else VIDEOS.active_run(data_dir, run_id)

    run = needed()
    if run is None:
        return

    def attempted() -> None:
        work(run, Attempt(step_dir(directory, step), lambda: needed() is not None))

    if carry_out(attempted, store_failure(directory), video=run_id, step=step).is_over:
        _schedule(VIDEOS, settings, run_id)


def _device(settings: TrainerSettings) -> "TrainingDevice":
    from trainer.training.bank import prepare_device

    return prepare_device(settings.device, settings.amp, settings.threads)


def _schedule(kind: Kind[R, S], settings: TrainerSettings, name: str) -> None:
    """Enqueue what a run needs next, as it is stored now."""
    run = kind.active_run(settings.data_dir, name)
    if run is not None:
        schedule(kind, settings.data_dir, job_queue(connect(settings), settings), run)

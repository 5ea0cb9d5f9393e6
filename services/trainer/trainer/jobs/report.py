"""The queue jobs that end an experiment or a search with its report. They alone import what draws."""

from functools import partial

from trainer.experiments.store import experiment_dir, refit_dir
from trainer.jobs.interruptions import attempt, noting_failure
from trainer.jobs.search import wanted_search
from trainer.jobs.train import train, wanted_experiment, wanted_refit
from trainer.reports.render import write_final, write_reports
from trainer.reports.summary import summarise
from trainer.searches.report import write_search_reports
from trainer.searches.store import search_dir
from trainer.settings import TrainerSettings

_BEFORE = "the report failed: "


def write_report(experiment_id: str) -> None:
    """Gather the folds into the report."""
    data_dir = TrainerSettings().data_dir
    experiment = wanted_experiment(data_dir, experiment_id)
    if experiment is not None:
        fail = noting_failure(experiment_dir(data_dir, experiment_id), _BEFORE)

        def run() -> None:
            write_reports(data_dir, experiment, summarise(data_dir, experiment))

        attempt(run, fail, experiment=experiment_id)


def fit_final(experiment_id: str) -> None:
    """Choose what is served, and train it where that is a bank on all faces."""
    data_dir = TrainerSettings().data_dir
    wanted = partial(wanted_refit, data_dir, experiment_id)
    train(refit_dir(data_dir, experiment_id, None), wanted, write_final)


def write_search_report(search_id: str) -> None:
    """Gather the trials into the report."""
    data_dir = TrainerSettings().data_dir
    search = wanted_search(data_dir, search_id)
    if search is not None:
        fail = noting_failure(search_dir(data_dir, search_id), _BEFORE)
        attempt(partial(write_search_reports, data_dir, search), fail, search=search_id)

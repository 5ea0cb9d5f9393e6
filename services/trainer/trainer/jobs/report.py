"""The queue jobs that end an experiment or a search with its report. They alone import what draws."""

import structlog
from agegender.files import write_json

from trainer.experiments.store import FAILURE, experiment_dir
from trainer.jobs.interruptions import may_pass, told
from trainer.jobs.search import wanted_search
from trainer.jobs.train import wanted_experiment
from trainer.reports.write import write_reports
from trainer.searches.report import write_search_reports
from trainer.searches.store import search_dir
from trainer.settings import TrainerSettings

log = structlog.get_logger(__name__)


def write_report(experiment_id: str) -> None:
    """Gather the folds into the report."""
    settings = TrainerSettings()
    experiment = wanted_experiment(settings, experiment_id)
    if experiment is None:
        return
    try:
        write_reports(settings.data_dir, experiment)
    except Exception as error:
        if may_pass(error):
            return
        log.error("report failed", experiment=experiment_id, exc_info=error)
        directory = experiment_dir(settings.data_dir, experiment_id)
        write_json(directory / FAILURE, {"detail": f"the report failed: {told(error)}"})


def write_search_report(search_id: str) -> None:
    """Gather the trials into the report."""
    settings = TrainerSettings()
    search = wanted_search(settings, search_id)
    if search is None:
        return
    try:
        write_search_reports(settings.data_dir, search)
    except Exception as error:
        if may_pass(error):
            return
        log.error("report failed", search=search_id, exc_info=error)
        write_json(
            search_dir(settings.data_dir, search_id) / FAILURE,
            {"detail": f"the report failed: {told(error)}"},
        )

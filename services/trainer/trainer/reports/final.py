"""The end of an experiment that was to be fitted on all faces: the choice of what is served."""

from collections.abc import Callable
from pathlib import Path

from agegender.datasets import EmbeddingSet
from agegender.files import write_json

from trainer.experiments.experiment import Experiment
from trainer.experiments.refit import run_final
from trainer.experiments.store import BANK, CHECKPOINT, METRICS, refit_dir
from trainer.reports.summary import summarise
from trainer.reports.write import write_reports
from trainer.training.epochs import EpochReport
from trainer.training.machine import Machine


def write_final(
    data_dir: Path,
    experiment: Experiment,
    faces: EmbeddingSet,
    tell: Callable[[EpochReport], None],
    machine: Machine,
) -> None:
    """Train the bank on all faces if it is chosen, renew the report, and write metrics.json last.

    tell, errors : as of `run_fold`.
    """
    summary = summarise(data_dir, experiment)
    served = summary["served"]
    directory = refit_dir(data_dir, experiment.id, None)
    if served["chosen"] == "all" and not (directory / BANK).exists():
        run_final(data_dir, experiment, faces, tell, machine)
    write_reports(data_dir, experiment, summary)
    write_json(directory / METRICS, {"chosen": served["chosen"], "nll": served["nll"]})
    (directory / CHECKPOINT).unlink(missing_ok=True)

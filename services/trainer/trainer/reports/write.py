"""Write an experiment's report in its three forms; report.json last, since it says that all is there."""

from pathlib import Path
from typing import Any

from agegender.files import write_json, write_text

from trainer.experiments.experiment import Experiment
from trainer.experiments.store import REPORT, experiment_dir
from trainer.reports.html import as_html
from trainer.reports.markdown import as_markdown


def write_reports(data_dir: Path, experiment: Experiment, summary: dict[str, Any]) -> None:
    directory = experiment_dir(data_dir, experiment.id)
    write_text(directory / "report.md", as_markdown(summary))
    write_text(directory / "report.html", as_html(summary))
    write_json(directory / REPORT, summary)

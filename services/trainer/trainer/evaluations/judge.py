"""Judge heads on labelled faces, refit their calibration, recommend what to do, and write the report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from agegender.files import write_json, write_text
from agegender.heads.calibration import mean_years, tempered
from agegender.heads.head import Head, Task, heads_directory, over_years, save_head

from trainer.datasets.embedding_set import EmbeddingSet, data_path, file_sha256, read_meta_data
from trainer.evaluation import (
    REPORTED_COVERAGE,
    ROUGH_BELOW,
    OutOfFold,
    calibrate,
    crossed_calibration,
    exact_ages,
    few_exact_ages,
)
from trainer.evaluations.evaluation import (
    RESULT,
    Evaluation,
    Result,
    TaskResult,
    evaluation_dir,
    known,
    why_not_calibrated,
)
from trainer.experiments.predictions import columns_of, write_predictions
from trainer.experiments.served import SERVED, heads_named, heads_of_versions
from trainer.reports.contents import evaluation_tables, number, report_plots
from trainer.reports.report import age_summary, as_page, gender_summary, table_lines
from trainer.runs.attempt import Attempt
from trainer.runs.run import REPORT

_CHUNK = 2048  # faces predicted at once
_WORSE = 1.25  # times the error on the head's own data
_CERTAIN = 0.95
_WHEN = ("before", "after")

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Judged:
    """A head's predictions for faces.

    Attributes
    ----------
    calibrated, raw : probabilities [faces, classes] as it serves them, and without its temperature.
    interval : ends [faces] of the served 90 % age intervals in years; None if it serves none.
    """

    head: Head
    calibrated: npt.NDArray[np.float32]
    raw: npt.NDArray[np.float32]
    interval: tuple[Floats, Floats] | None

    @property
    def years(self) -> npt.NDArray[np.float32]:
        return over_years(self.calibrated, self.head.manifest.classes)

    def summary(self, faces: EmbeddingSet) -> dict[str, Any]:
        """Return the metrics of a report."""
        if self.head.manifest.task is Task.GENDER:
            return gender_summary(faces, self.raw, self.calibrated)
        low, high = self.interval or (np.zeros(len(faces)), np.full(len(faces), 100.0))
        raw = over_years(self.raw, self.head.manifest.classes)
        metrics = age_summary(faces, raw, self.years, np.asarray(low), np.asarray(high))
        if self.interval is None:
            for values in (metrics, *metrics["cells"]):
                del values["coverage"], values["width"]
        return metrics


def judged(head: Head, faces: EmbeddingSet) -> Judged:
    """Predict faces as the head serves them."""
    chunks = [
        head.probabilities(faces.embedding[begin : begin + _CHUNK]) for begin in range(0, len(faces), _CHUNK)
    ]
    calibrated = np.concatenate(chunks)
    raw = tempered(calibrated, 1 / head.manifest.temperature)  # undoes the temperature
    interval = None
    if head.manifest.conformal is not None:
        years = over_years(calibrated, head.manifest.classes)
        interval = head.intervals(years, faces.embedding, REPORTED_COVERAGE)
    return Judged(head, calibrated, np.asarray(raw, np.float32), interval)


def run_evaluation(
    data_dir: Path, shipped: Path, evaluation: Evaluation, faces: EmbeddingSet, attempt: Attempt
) -> None:
    """Judge the heads on the faces, calibrate them if requested, and write the report; report.json last.

    Raises ``too-few-faces`` 422 and `GivenUp`, among others.
    """
    if evaluation.head == SERVED:
        heads = heads_of_versions(data_dir, shipped, evaluation.versions, evaluation.space)
    else:
        heads = heads_named(data_dir, shipped, evaluation.head, evaluation.space)
    found = {task: judged(head, faces) for task, head in heads.items() if known(faces, task).any()}
    attempt.check()
    metrics = {task.value: one.summary(faces) for task, one in found.items()}
    calibrations = _calibrations(data_dir, evaluation, faces, found) if evaluation.calibrate else {}
    attempt.check()
    results = {task: _result(one, metrics[task.value], calibrations) for task, one in found.items()}
    advice = recommendation(evaluation, found, metrics, faces, calibrations)
    age, gender = found.get(Task.AGE), found.get(Task.GENDER)
    columns = columns_of(
        [evaluation.dataset],
        faces,
        None if age is None else age.years,
        None if age is None else age.interval,
        None if gender is None else gender.calibrated,
    )
    directory = evaluation_dir(data_dir, evaluation.id)
    summary = {
        "evaluation": evaluation.model_dump(mode="json"),
        "data": {
            evaluation.dataset: read_meta_data(
                data_dir, evaluation.dataset, evaluation.space, evaluation.image_set
            )
        },
        "heads": {task.value: _own(one.head) for task, one in found.items()},
        "out_of_fold": metrics,
        "calibration": {task.value: one for task, one in calibrations.items()},
        "recommendation": advice,
    }
    write_predictions(directory, columns)
    write_json(directory / RESULT, Result(results=results, recommendation=advice).model_dump(mode="json"))
    write_evaluation_reports(directory, summary)


def write_evaluation_reports(directory: Path, summary: dict[str, Any]) -> None:
    """Write the report in its three forms; report.json last, because it marks the report as complete."""
    evaluation = summary["evaluation"]
    title = f"Evaluation {evaluation['id']}"
    heads = ", ".join(evaluation["versions"].values())
    paragraphs = [
        f"{heads} on {evaluation['dataset']} in space {evaluation['space']['id']}.",
        *summary["recommendation"],
        *evaluation["warnings"],
    ]
    tables = evaluation_tables(summary)
    text = "\n".join([f"# {title}", *(f"\n{one}" for one in paragraphs), *table_lines(tables)]) + "\n"
    write_text(directory / "report.md", text)
    write_text(directory / "report.html", as_page(title, paragraphs, report_plots(summary), tables))
    write_json(directory / REPORT, summary)


def _calibrations(
    data_dir: Path, evaluation: Evaluation, faces: EmbeddingSet, found: dict[Task, Judged]
) -> dict[Task, dict[str, Any]]:
    """Write a calibrated version of each head; return the metrics before and after by cross-validation."""
    calibrations = {}
    for task, one in found.items():
        if why_not_calibrated(faces, task) is not None:
            continue
        manifest, classes = one.head.manifest, one.head.manifest.classes
        raw = OutOfFold(faces, {task: one.raw})
        after, low, high = crossed_calibration(raw, task, classes, exact=True)
        if task is Task.GENDER:
            compared = gender_summary(faces, one.raw, after)
        else:
            years_before, years = over_years(one.raw, classes), over_years(after, classes)
            compared = age_summary(faces, years_before, years, low, high)
        calibration = calibrate(raw, task, classes, np.ones(len(faces), dtype=bool), exact=True)
        version = f"{evaluation.id}-{task.value}"
        path = data_path(data_dir, evaluation.dataset, evaluation.space, evaluation.image_set)
        card = {
            **manifest.card,
            "calibrated": {
                "base": manifest.version,
                "evaluation": evaluation.id,
                "sets": [evaluation.dataset],
                "sha256": {evaluation.dataset: file_sha256(path)},
                "faces": int(known(faces, task).sum()),
                "base_temperature": manifest.temperature,
            },
        }
        changes = {
            "version": version,
            "temperature": round(calibration.temperature, 6),
            "conformal": calibration.conformal,
            "card": card,
        }
        tensors = one.head.tensors
        if calibration.familiarity is not None:  # from now on these faces are the familiar ones
            changes["familiarity"] = True
            tensors = {**tensors, **calibration.familiarity.tensors}
        directory = heads_directory(data_dir / "models", task, evaluation.space) / version
        save_head(directory, manifest.model_copy(update=changes), tensors)
        calibrations[task] = {
            "version": version,
            "base": manifest.version,
            "faces": card["calibrated"]["faces"],
            "temperature_before": manifest.temperature,
            "temperature": changes["temperature"],
            "before": one.summary(faces),
            "after": compared,
        }
    return calibrations


def _own(head: Head) -> dict[str, Any]:
    """Return what a head's card states: its training faces, and its metrics on them, out of fold."""
    card = head.manifest.card
    data, metrics = card.get("data"), card.get("metrics")
    data = data if isinstance(data, dict) else {}
    return {
        "version": head.manifest.version,
        "trained_on": data.get("faces"),
        "sets": data.get("sets", []),
        "metrics": metrics if isinstance(metrics, dict) else {},
    }


def _result(one: Judged, metrics: dict[str, Any], calibrations: dict[Task, dict[str, Any]]) -> TaskResult:
    done = calibrations.get(one.head.manifest.task, {})
    served = one.head.manifest.conformal is not None
    covered = round(metrics["coverage"] * metrics["faces"]) if served else None
    return TaskResult(
        version=one.head.manifest.version,
        faces=metrics["faces"],
        exact_faces=metrics.get("exact_faces"),
        mae=metrics.get("mae"),
        accuracy=metrics.get("accuracy"),
        group_accuracy=metrics.get("group_accuracy"),
        coverage=metrics["coverage"] if served else None,
        stated_coverage=REPORTED_COVERAGE if served else None,
        coverage_upper=None if covered is None else share_bounds(covered, metrics["faces"])[1],
        coverage_after=done["after"].get("coverage") if done else None,
        new_version=done.get("version"),
    )


def share_bounds(count: int, of: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share (Wilson 1927)."""
    from scipy.stats import binomtest

    bounds = binomtest(count, of).proportion_ci(_CERTAIN, method="wilson")
    return float(bounds.low), float(bounds.high)


def recommendation(
    evaluation: Evaluation,
    found: dict[Task, Judged],
    metrics: dict[str, dict[str, Any]],
    faces: EmbeddingSet,
    calibrations: dict[Task, dict[str, Any]],
) -> list[str]:
    """Return what the metrics mean and what to do, in plain words."""
    sentences: list[str] = []
    for task, one in found.items():
        own = _own(one.head)["metrics"]
        here = metrics[task.value]
        few = " These are few faces, so the figures are rough." if here["faces"] < ROUGH_BELOW else ""
        sentences.append(_accuracy_sentence(task, here, own) + few)
        sentences += _few_exact_sentences(task, here)
        if task is Task.AGE and not few:
            sentences += _coverage_sentences(evaluation, here, one)
            sentences += _bias_sentences(one, faces)
        if task in calibrations:
            done = calibrations[task]
            name, values = "expected calibration error", [number(done[when]["ece"], 3) for when in _WHEN]
            if "coverage" in done["before"]:
                name = f"coverage of its {REPORTED_COVERAGE:.0%} intervals"
                values = [f"{done[when]['coverage']:.1%}" for when in _WHEN]
            sentences.append(
                f"The {task.value} head was calibrated as {done['version']} (base: {done['base']}): {name} "
                f"{values[0]} before, {values[1]} after, by cross-validation. To serve it: agegender promote "
                f"{evaluation.id}."
            )
    return sentences


def _accuracy_sentence(task: Task, here: dict[str, Any], own: dict[str, Any]) -> str:
    """Compare the error in years or, if few faces have an exact age, the share of wrong age groups."""
    if task is Task.AGE and here["mae"] is not None and not few_exact_ages(here) and not few_exact_ages(own):
        value, before, form = here["mae"], own.get("mae"), "{:.1f} years"
        faces, exact = f"{here['faces']:,} faces", here["exact_faces"]
        of = faces if exact == here["faces"] else f"the {exact:,} of {faces} that have an exact age"
        text = f"The age is wrong by {form.format(value)} on average, on {of}"
    else:
        metric = "accuracy" if task is Task.GENDER else "group_accuracy"
        value = 1 - here[metric]
        before, form = (1 - own[metric] if isinstance(own.get(metric), float) else None), "{:.1%}"
        what = "gender" if task is Task.GENDER else "age group"
        text = f"The {what} is wrong for {form.format(value)} of {here['faces']:,} faces"
    if not isinstance(before, int | float):
        return f"{text}."
    text += f"; on the data that the head was trained on, out of fold, {form.format(before)}."
    if value > _WORSE * before:
        return (
            f"{text} These faces differ from its training data: train on some of them as well "
            "(agegender train DATASET …), if you have a few hundred."
        )
    return f"{text} It works here about as well as on its own data."


def _few_exact_sentences(task: Task, here: dict[str, Any]) -> list[str]:
    if task is Task.GENDER or here["mae"] is None or not few_exact_ages(here):
        return []
    exact = here["exact_faces"]
    return [
        f"Only {exact} of these {here['faces']:,} faces {'has' if exact == 1 else 'have'} an exact age: the "
        f"mean absolute error there, {here['mae']:.1f} years, is rough."
    ]


def _coverage_sentences(evaluation: Evaluation, here: dict[str, Any], one: Judged) -> list[str]:
    if one.head.manifest.conformal is None:
        return []
    low, high = share_bounds(round(here["coverage"] * here["faces"]), here["faces"])
    text = (
        f"Its {REPORTED_COVERAGE:.0%} intervals contain the age of {here['coverage']:.1%} of these faces "
        f"(95 % confidence: {low:.1%} to {high:.1%}), at a mean width of {here['width']:.1f} years."
    )
    if low <= REPORTED_COVERAGE <= high or evaluation.calibrate:
        return [text]
    advice = "too narrow here, so do not rely on them" if high < REPORTED_COVERAGE else "wider than necessary"
    return [f"{text} They are {advice}: agegender calibrate {evaluation.dataset} adapts them."]


def _bias_sentences(one: Judged, faces: EmbeddingSet) -> list[str]:
    if exact_ages(faces) < ROUGH_BELOW:
        return []
    exact = faces.has_age & (faces.age_low == faces.age_high)
    error = (mean_years(one.years) - faces.age_low)[exact]
    mean, spread = float(error.mean()), 1.96 * float(error.std()) / np.sqrt(len(error))
    if abs(mean) <= max(1.0, spread):
        return []
    direction = "old" if mean > 0 else "young"
    return [f"It takes these faces for {abs(mean):.1f} years too {direction} on average (± {spread:.1f})."]

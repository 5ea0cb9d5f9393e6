"""The last queue job of an extraction: all chunks become a data set; and the one that only regroups it."""

import shutil

import structlog
from agegender.errors import Problem

from trainer.datasets.regrouping import regroup
from trainer.extraction.merging import merge
from trainer.extraction.state import work_dir, write_state
from trainer.jobs.attempts import current, fail
from trainer.settings import TrainerSettings

log = structlog.get_logger(__name__)


def merge_shards(dataset: str, space_id: str, variant: str, attempt: str) -> None:
    """Write the extracted data set from all chunks."""
    data_dir = TrainerSettings().data_dir
    extraction = current(data_dir, dataset, space_id, variant, attempt)
    if extraction is None:
        return
    extraction = write_state(data_dir, extraction, state="merging")
    try:
        outcome = merge(data_dir, extraction)
    except Problem as problem:
        fail(data_dir, extraction, problem)
        return
    write_state(data_dir, extraction, state="finished", problem=None, **vars(outcome))
    shutil.rmtree(work_dir(data_dir, extraction), ignore_errors=True)
    log.info(
        "extraction finished",
        dataset=dataset,
        variant=variant,
        space=space_id,
        faces=outcome.faces,
        summary=outcome.summary,
    )


def regroup_faces(dataset: str, space_id: str, variant: str, attempt: str) -> None:
    """Find subjects and folds of an extracted data set anew."""
    data_dir = TrainerSettings().data_dir
    extraction = current(data_dir, dataset, space_id, variant, attempt)
    if extraction is None:
        return
    extraction = write_state(data_dir, extraction, state="merging")
    try:
        meta_data = regroup(
            data_dir,
            dataset,
            extraction.space,
            variant,
            near_duplicates=extraction.near_duplicates,
            subjects_from=extraction.subjects_from,
            genders=extraction.genders,
        )
    except Problem as problem:
        fail(data_dir, extraction, problem)
        return
    write_state(data_dir, extraction, state="finished", problem=None)
    log.info("regrouped", dataset=dataset, variant=variant, space=space_id, subjects=meta_data["subjects"])

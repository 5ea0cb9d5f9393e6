"""The queue job that imports faces which the original extracted."""

import structlog
from agegender.errors import Problem

from trainer.datasets.original import import_original
from trainer.extraction.outcome import Removals
from trainer.extraction.state import write_state
from trainer.jobs.attempts import current, fail
from trainer.settings import TrainerSettings

log = structlog.get_logger(__name__)


def import_original_faces(dataset: str, space_id: str, variant: str, attempt: str) -> None:
    """Write the extracted data set from the original's file."""
    data_dir = TrainerSettings().data_dir
    extraction = current(data_dir, dataset, space_id, variant, attempt)
    if extraction is None:
        return
    extraction = write_state(data_dir, extraction, state="extracting")
    try:
        faces = import_original(data_dir, dataset, variant, extraction.space)
    except Problem as problem:
        fail(data_dir, extraction, problem)
        return
    outcome = Removals().outcome(faces)
    write_state(data_dir, extraction, state="finished", images=faces, problem=None, **vars(outcome))
    log.info("import finished", dataset=dataset, variant=variant, space=space_id, summary=outcome.summary)

"""The queue jobs of an extraction: one plans, one a shard embeds; `trainer.jobs.merge` ends it.

Arguments are names; the truth lies on the volume. Each job may run again at any time, on any worker: what is
there already is not done again.
"""

from collections.abc import Callable

import structlog
from agegender.errors import Problem
from agegender_service.faces_client import BlockingFacesClient
from rq.job import Dependency

from trainer.datasets.catalog import dataset_folder
from trainer.datasets.formats import require_format
from trainer.extraction.planning import write_plan
from trainer.extraction.progress import ShardProgress
from trainer.extraction.shards import Stopped, embed_shard
from trainer.extraction.state import work_dir, write_state
from trainer.jobs.attempts import current, enqueue_part, fail
from trainer.queues import connect, job_queue
from trainer.settings import TrainerSettings

log = structlog.get_logger(__name__)

_SHARD_SECONDS, _IMAGE_SECONDS = 1800, 20
_MERGE_SECONDS = 6 * 3600
_SHARD, _MERGE = "trainer.jobs.extract.extract_shard", "trainer.jobs.merge.merge_shards"


def plan_extraction(dataset: str, space_id: str, variant: str, attempt: str) -> None:
    """Write the shards and enqueue a job for each, and the one that merges them."""
    settings = TrainerSettings()
    data_dir = settings.data_dir
    extraction = current(data_dir, dataset, space_id, variant, attempt)
    if extraction is None:
        return
    folder = dataset_folder(data_dir, dataset)
    try:
        kind = require_format(folder).with_gender_map(extraction.genders)
        plan = write_plan(kind, folder, variant, extraction.shard_size, work_dir(data_dir, extraction))
    except Problem as problem:
        fail(data_dir, extraction, problem)
        return
    if current(data_dir, dataset, space_id, variant, attempt) is None:  # cancelled meanwhile
        return
    labels = plan.removals.outcome(plan.images, noun="rows can be read")
    extraction = write_state(
        data_dir,
        extraction,
        state="extracting",
        images=plan.images,
        shards=plan.shards,
        **{**vars(labels), "faces": None},
    )
    log.info("labels read", dataset=dataset, variant=variant, space=space_id, summary=labels.summary)
    queue = job_queue(connect(settings), settings)
    seconds = _SHARD_SECONDS + _IMAGE_SECONDS * extraction.shard_size
    shards = [
        enqueue_part(queue, _SHARD, extraction, f"shard-{shard}", seconds, shard)
        for shard in range(plan.shards)
    ]
    after_all = Dependency(jobs=shards, allow_failure=True)
    enqueue_part(queue, _MERGE, extraction, "merge", _MERGE_SECONDS, depends_on=after_all)


def extract_shard(dataset: str, space_id: str, variant: str, attempt: str, shard: int) -> None:
    """Embed the images of one shard."""
    settings = TrainerSettings()
    data_dir = settings.data_dir
    extraction = current(data_dir, dataset, space_id, variant, attempt)
    if extraction is None:
        return
    redis = connect(settings)

    def begun(images: int, done: int) -> Callable[[int], None]:
        return ShardProgress(redis, extraction, shard, images, done).advance

    def goes_on() -> bool:
        return current(data_dir, dataset, space_id, variant, attempt) is not None

    try:
        with BlockingFacesClient(settings.proxy_url, headers=settings.service_headers) as client:
            embed_shard(
                data_dir,
                extraction,
                shard,
                client,
                in_flight=settings.extract_in_flight,
                goes_on=goes_on,
                begun=begun,
            )
    except Stopped:
        log.info("extraction stopped", dataset=dataset, shard=shard)
    except Problem as problem:
        if problem.retry_after is not None:  # it may pass: RQ tries again, and counts
            latest = current(data_dir, dataset, space_id, variant, attempt)
            if latest is not None:  # a cancelled one stays cancelled
                write_state(data_dir, latest, problem=problem.document())
            raise
        fail(data_dir, extraction, problem)

"""One shard of an extraction: the chunks that are not there yet, several in flight."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from agegender.errors import Problem
from agegender_service.faces_client import BlockingFacesClient

from trainer.datasets.catalog import dataset_folder
from trainer.datasets.formats import require_format
from trainer.extraction.chunks import chunk_paths, write_chunk
from trainer.extraction.embedding import embed_images
from trainer.extraction.planning import shard_images
from trainer.extraction.state import CHUNK, Extraction, shard_path, work_dir


class Stopped(Exception):
    """The extraction was cancelled, failed elsewhere, or was started anew."""


def embed_shard(
    data_dir: Path,
    extraction: Extraction,
    shard: int,
    client: BlockingFacesClient,
    *,
    in_flight: int,
    goes_on: Callable[[], bool],
    begun: Callable[[int, int], Callable[[int], None]],
) -> None:
    """Write the chunks of a shard that are missing.

    begun : called with the images of the shard and those already done; gives what is called with the number
        of images of each chunk that gets done.
    goes_on : asked before each chunk.

    Raises `Stopped` if `goes_on` returns False, and what `BlockingFacesClient.faces` raises.
    """
    folder = dataset_folder(data_dir, extraction.dataset)
    kind = require_format(folder)
    image_dir = kind.image_dir(folder, extraction.variant)
    work = work_dir(data_dir, extraction)
    content = shard_path(work, shard).read_bytes()
    images = shard_images(content)
    paths = chunk_paths(work, extraction, content, len(images))
    missing = [number for number, path in enumerate(paths) if not path.is_file()]

    def portion(number: int) -> slice:
        return slice(number * CHUNK, (number + 1) * CHUNK)

    def embed(number: int) -> int:
        if not goes_on():
            raise Stopped
        chunk_images = images[portion(number)]
        chunk = embed_images(
            client,
            extraction,
            image_dir,
            data_dir,
            chunk_images,
            first_row=number * CHUNK,
            one_face_only=kind.one_face_only,
        )
        write_chunk(paths[number], chunk)
        return len(chunk_images)

    left = sum(len(images[portion(number)]) for number in missing)
    advance = begun(len(images), len(images) - left)
    with ThreadPoolExecutor(in_flight, thread_name_prefix="embed") as pool:
        futures = [pool.submit(embed, number) for number in missing]
        try:
            for future in as_completed(futures):
                advance(future.result())
        except (Stopped, Problem, OSError):
            pool.shutdown(cancel_futures=True)
            raise

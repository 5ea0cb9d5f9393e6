"""A pack that fails to load is tried again, and the process ends if that is of no use."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agegender.spaces import Space
from agegender_service.settings import UNUSABLE_SETTINGS
from embedder import app as service_module
from embedder.app import EmbeddingService
from embedder.packs.pack import BadPack, Pack
from embedder.packs.store import RELEASED, NotFetched, load_pack
from embedder.settings import EmbedderSettings

PACK = Pack(Space(id="made-1", dimension=4), [], None, [])  # type: ignore[arg-type]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[EmbeddingService, list[int]]]:
    """Make a service whose pack is loaded by a function, and the list of statuses it ended with."""

    def made(load: Callable[..., Pack], **settings: Any) -> tuple[EmbeddingService, list[int]]:
        monkeypatch.setattr(service_module, "load_pack", load)
        monkeypatch.setattr(service_module, "_FIRST_PAUSE", 0.05)
        ended: list[int] = []
        return EmbeddingService(EmbedderSettings(**settings), ended.append), ended

    return made


class Failing:
    """Fails so often, then loads."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.tries = 0

    def __call__(self, *_: Any) -> Pack:
        self.tries += 1
        if self.errors:
            raise self.errors.pop(0)
        return PACK


async def test_pack_is_loaded_once_the_network_is_back(service: Any) -> None:
    load = Failing(NotFetched("no network"), OSError("disk"), RuntimeError("onnx"))
    embedding, ended = service(load)
    await embedding.load()
    assert (embedding.pack, load.tries, ended) == (PACK, 4, [])
    assert embedding.why_not_ready() is None


async def test_readiness_states_what_failed_and_when_the_next_try_comes(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedding, _ = service(Failing(NotFetched("no network")))
    monkeypatch.setattr(service_module, "_FIRST_PAUSE", 7.0)
    assert embedding.why_not_ready() == "The pack 'human' is being loaded."
    loading = asyncio.create_task(embedding.load())
    async with asyncio.timeout(10):
        while embedding.failure is None:
            await asyncio.sleep(0.01)
    assert embedding.why_not_ready() == (
        "The pack 'human' could not be loaded: no network. The next attempt is in 7 s."
    )
    loading.cancel()


async def test_pauses_grow(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []
    original, here = asyncio.sleep, asyncio.get_running_loop()

    async def sleep(seconds: float) -> None:
        if asyncio.get_running_loop() is here:
            paused.append(seconds)
        else:  # a server that other tests of this process share
            await original(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    embedding, _ = service(Failing(*[NotFetched("no network")] * 13))
    monkeypatch.setattr(service_module, "_FIRST_PAUSE", 1.0)
    await embedding.load()
    assert paused == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60, 60]


async def test_process_ends_after_a_while_so_that_its_supervisor_acts(
    service: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    load = Failing(*[NotFetched("no network")] * 1000)
    embedding, ended = service(load, load_timeout=1.0)
    await embedding.load()
    assert ended == [1] and load.tries > 2
    line = capsys.readouterr().err
    assert line.startswith("error: not started. The pack 'human' could not be loaded: no network.")


async def test_download_that_hangs_ends_the_process_too(service: Any) -> None:
    go_on = threading.Event()
    embedding, ended = service(lambda *_: go_on.wait(20) and PACK, load_timeout=0.2)
    await embedding.load()
    assert ended == [1]
    go_on.set()


async def test_what_no_other_try_can_mend_ends_the_process_at_once(
    service: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    load = Failing(BadPack("a.onnx is damaged; delete it"))
    embedding, ended = service(load)
    await embedding.load()
    assert (ended, load.tries) == ([UNUSABLE_SETTINGS], 1)
    line = capsys.readouterr().err
    assert "a.onnx is damaged; delete it" in line and line.count("\n") == 1


def test_unknown_name_or_folder_is_reported_without_a_download(tmp_path: Path) -> None:
    with pytest.raises(BadPack, match="no pack is named 'buffalo_xl'") as raised:
        load_pack("buffalo_xl", tmp_path, None, None, 1)
    assert all(name in str(raised.value) for name in RELEASED)
    with pytest.raises(BadPack, match="there is no folder"):
        load_pack("human", tmp_path, tmp_path / "absent", None, 1)
    with pytest.raises(BadPack, match="is missing"):
        load_pack("human", tmp_path, tmp_path, None, 1)
    with pytest.raises(BadPack, match="no recognition model"):
        load_pack("mine", tmp_path, tmp_path, None, 1)

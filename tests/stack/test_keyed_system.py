"""The system as `make up` starts it when API_KEYS is set: strangers get nothing, the services each other."""

from collections.abc import Iterator

import httpx
import psutil
import pytest
import redis
from agegender.errors import Problem
from agegender.keys import ApiKey, Scope
from agegender.spaces import Space
from agegender_client import Client
from PIL import Image

from tests.support.packs import human_pack_dir
from tests.support.system import EXPERIMENT, SIX_ADULTS, client_of, made_data
from tools.stack import Stack, running_stack

KEYS = {scope: ApiKey.new(scope.value, [scope]) for scope in Scope}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    root = tmp_path_factory.mktemp("keyed")
    keys = ",".join(str(key) for key, _ in KEYS.values())
    pack = str(human_pack_dir())
    with running_stack(root, EMBEDDER_HUMAN_DIR=pack, API_KEYS=keys, RATE_LIMIT="30/minute") as started:
        yield started


def client(stack: Stack, scope: Scope | None) -> Client:
    return client_of(stack, None if scope is None else KEYS[scope][1])


def test_photograph_goes_through_all_services_with_one_key(stack: Stack) -> None:
    with client(stack, Scope.PREDICT) as own:
        assert len(own.predict([SIX_ADULTS.read_bytes()]).images[0].faces) == 6


@pytest.mark.parametrize("name", ["embedder", "embedder-proxy", "predictor", "trainer"])
def test_stranger_gets_nothing(stack: Stack, name: str) -> None:
    for path in ("/faces", "/age-gender", "/", "/experiments", "/datasets/x/extract"):
        answer = httpx.post(f"{stack.url(name)}{path}", files={"image": SIX_ADULTS.read_bytes()})
        assert answer.status_code == 401, path
    assert httpx.get(f"{stack.url(name)}/info").status_code == 401


def test_redis_asks_for_a_password_that_no_command_line_shows(stack: Stack) -> None:
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=stack.ports["redis"]).ping()
    assert redis.Redis.from_url(stack.redis_url).ping()
    processes = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert not any(stack.redis_password in str(command) for command in processes)


def test_key_to_train_does_not_change_what_is_served(stack: Stack) -> None:
    with client(stack, Scope.PREDICT) as own, pytest.raises(Problem, match="train"):
        own.experiments()
    headers = {"X-API-Key": KEYS[Scope.PREDICT][1]}
    space = Space.model_validate(
        httpx.get(f"{stack.url('embedder-proxy')}/info", headers=headers).json()["space"]
    )
    made_data(stack.data_dir, space)
    with client(stack, Scope.TRAIN) as own:
        experiment = own.create_experiment(EXPERIMENT)
        states = [status.state for status in own.watch(experiment.id)]
        assert states[-1] == "finished"
        with pytest.raises(Problem, match="admin"):
            own.promote(experiment.id)
    with client(stack, Scope.ADMIN) as own:
        assert own.promote(experiment.id, refit=False, force=True)


def test_extraction_shows_the_proxy_the_services_key(stack: Stack) -> None:
    folder = stack.data_dir / "six"
    folder.mkdir()
    with client(stack, Scope.PREDICT) as own, Image.open(SIX_ADULTS) as photograph:
        image = own.predict([SIX_ADULTS.read_bytes()]).images[0]
        for number, face in enumerate(image.faces):
            left, top, right, bottom = face.bbox
            photograph.crop((left - 60, top - 60, right + 60, bottom + 60)).save(folder / f"{number}.png")
    rows = "".join(f"{number}.png,30,female\n" for number in range(6))
    (folder / "labels.csv").write_text("file,age,gender\n" + rows)
    with client(stack, Scope.TRAIN) as own:
        own.extract("six")
        *_, last = own.watch_extraction("six")
    assert last.state == "finished", last.model_dump_json()


def test_greedy_caller_is_limited(stack: Stack) -> None:
    headers = {"X-API-Key": KEYS[Scope.ADMIN][1]}
    statuses = [httpx.get(f"{stack.url('predictor')}/models", headers=headers).status_code for _ in range(31)]
    assert statuses[-1] == 429

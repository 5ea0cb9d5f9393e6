"""The system as `docker compose up` starts it."""

import httpx
from agegender.spaces import Space
from compose_system import ComposeSystem, docker
from system import assert_six_adults, predict, train_and_promote, wait_until_served


def test_photograph_training_promotion_and_photograph_again(system: ComposeSystem) -> None:
    system.wait_ready()
    assert_six_adults(predict(system.url("predictor")))
    space = Space.model_validate(httpx.get(f"{system.url('embedder-proxy')}/info").json()["space"])
    # The volume belongs to the services' user now; this test may be anybody.
    system.run("run", "--rm", "--no-deps", "--user", "0:0", "data-init")
    versions = train_and_promote(system.url("trainer"), system.data_dir, space)
    wait_until_served(system.url("predictor"), versions)


def test_killed_embedding_container_costs_no_request(system: ComposeSystem) -> None:
    system.wait_ready()
    assert docker("kill", system.containers("insightface")[0]).returncode == 0
    for _ in range(5):
        assert len(predict(system.url("predictor"))["images"][0]["faces"]) == 6

"""The system as `make up` starts it: a photograph in, an answer out; trained, promoted, served."""

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.system import (
    BAD_INPUTS,
    SIX_ADULTS,
    assert_six_adults,
    client_of,
    picture,
    predict,
    train_and_promote,
    wait_until_served,
)
from tools.screenshots import photograph
from tools.stack import ROOT, Stack, StackError

PROBLEM = "application/problem+json"


@pytest.fixture
def stack(human_system: Stack) -> Stack:
    return human_system


def test_photograph_is_answered_with_the_shipped_heads(stack: Stack) -> None:
    with client_of(stack) as client:
        assert_six_adults(predict(client))


def test_answer_in_the_readme_is_the_one_for_its_picture(stack: Stack) -> None:
    (shown,) = re.findall(r"^```json\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    answer = httpx.post(f"{stack.url('predictor')}/age-gender", content=photograph(), timeout=60).json()
    assert_rounded(json.loads(shown), answer)


def assert_rounded(shown: Any, full: Any, within: float = 0.002) -> None:
    """`shown` is `full` with fewer digits and members, or what another processor answers.

    Processors differ in the last bits of a network's sums: by 0.001 of a probability, 0.004 of an entropy.
    """
    if isinstance(shown, dict):
        for name, value in shown.items():
            assert_rounded(value, full[name], 0.006 if name == "entropy" else within)
    elif isinstance(shown, list):
        for value, whole in zip(shown, full, strict=True):
            assert_rounded(value, whole, within)
    else:
        assert shown == (full if isinstance(shown, str) else pytest.approx(full, rel=0.005, abs=within))


def test_log_lines_of_a_request_have_its_id_and_nothing_of_the_client_or_its_picture(
    stack: Stack,
) -> None:
    """The image is in no cache; the client's address is one that no service has."""
    content = SIX_ADULTS.read_bytes() + b"a file of its own"
    with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.77"), timeout=60) as client:
        for path, body, status in (
            ("/age-gender?embeddings=true", content, 200),
            ("/age-gender", b"no picture", 415),
        ):
            url = f"{stack.url('predictor')}{path}"
            answer = client.post(url, content=body, headers={"X-Request-ID": f"trace-{status}"})
            assert answer.status_code == status
            if status == 200:
                found = answer.json()["images"][0]["faces"][0]["embedding"]
    routes = {"predictor": "/age-gender", "embedder-proxy": "/faces", "embedder": "/faces"}
    for name, route in routes.items():
        text = (stack.run_dir / "logs" / f"{name}.log").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        lines_of_request = [line for line in lines if line.get("request_id") == "trace-200"]
        assert [line["route"] for line in lines_of_request if line["event"] == "request"] == [route]
        assert all(line["request_id"] for line in lines if "route" in line)
        assert "127.0.0.77" not in text
        assert str(max(found)) not in text and base64.b64encode(content[:60]).decode() not in text


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_gets_a_problem_and_the_right_status(stack: Stack, name: str) -> None:
    content, status = BAD_INPUTS[name]
    answer = httpx.post(
        f"{stack.url('predictor')}/age-gender", files={"image": ("x.jpg", content())}, timeout=60
    )
    assert answer.status_code == status, answer.text
    if status == 200:
        assert answer.json()["images"][0]["faces"] == []
    else:
        assert answer.headers["content-type"].startswith(PROBLEM)
        assert answer.json()["status"] == status
        assert answer.json()["type"].startswith("urn:age-gender:problem:")


def test_no_image_at_all_is_reported(stack: Stack) -> None:
    answer = httpx.post(f"{stack.url('predictor')}/age-gender", files={"other": b"x"})
    assert answer.status_code == 400
    assert "curl -F image=@" in answer.json()["detail"]


def test_embeddings_of_a_space_without_heads_are_refused_naming_both(stack: Stack) -> None:
    answer = httpx.post(
        f"{stack.url('predictor')}/age-gender/embeddings",
        json={"space": "elsewhere-1", "embeddings": [[1.0, 0.0]]},
    )
    assert answer.status_code == 409
    assert "elsewhere-1" in answer.text and "human-2" in answer.text


def test_experiment_is_trained_promoted_and_served_without_a_restart(stack: Stack) -> None:
    before = stack.pids()["predictor"]
    with client_of(stack) as client:
        shipped = predict(client)
        try:
            wait_until_served(client, train_and_promote(client, stack.data_dir, shipped.space))
        finally:  # other tests ask for the heads that come with the program
            shutil.rmtree(stack.data_dir / "models", ignore_errors=True)
            wait_until_served(client, {task.value: version for task, version in shipped.models.items()})
    assert stack.pids()["predictor"] == before


def test_embedder_that_is_down_is_a_503_with_retry_after(stack: Stack) -> None:
    stack.control("stop", "embedder")
    try:
        answer = httpx.post(
            f"{stack.url('predictor')}/age-gender", files={"image": picture("PNG", (77, 78))}, timeout=60
        )
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) > 0
        assert answer.headers["content-type"].startswith(PROBLEM)
    finally:
        stack.control("start", "embedder")
        stack.wait_ready(seconds=60)


def test_second_system_on_the_same_ports_is_refused_by_name(stack: Stack, tmp_path: Path) -> None:
    with pytest.raises(StackError, match=rf"port {stack.ports['predictor']} \(predictor\)"):
        Stack(tmp_path, tmp_path / "run", stack.ports).start()

"""The wire format of the original's server, as the predictor speaks it."""

import base64
import json
import pickle
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from agegender.spaces import Space
from agegender.wire import OriginalAge
from predictor.app import create_predictor
from predictor.settings import PredictorSettings

from tests.support.embedder_double import EmbedderDouble
from tests.support.made_heads import promoted_heads
from tests.support.predictor_requests import embedding, original_request, png, slug
from tests.support.serving import serving


def test_original_s_client_is_answered_in_its_own_format(predictor: httpx.Client) -> None:
    rows = np.array(embedding()["embeddings"] * 3, np.float32)
    answer = predictor.post("/", json=original_request(rows))
    message = json.loads(answer.text)
    ages: list[OriginalAge] = message["ages"]
    image = predictor.post("/age-gender", content=png()).json()["images"][0]["faces"][0]
    assert [age["mean"] for age in ages] == pytest.approx([image["age"]["mean"]] * 3, abs=0.01)
    assert message["genders"][0]["f"] == pytest.approx(image["gender"]["probability"]["female"], abs=1e-4)
    assert set(message["genders"][0]) == {"m", "f", "entropy"} and set(ages[0]) == {"mean", "entropy"}
    none = predictor.post("/", json=original_request(np.zeros((0, 512), np.float32)))
    assert json.loads(none.text) == {"ages": [], "genders": []}


def test_original_s_format_is_refused_where_the_space_has_another_dimension(
    tmp_path: Path,
) -> None:
    space = Space(id="wide-1", dimension=1024)
    promoted_heads(tmp_path / "models", space)
    with EmbedderDouble(space=space).served() as proxy:
        settings = PredictorSettings(data_dir=tmp_path, heads_dir=tmp_path / "none", proxy_url=proxy.url)
        with serving(create_predictor(settings)) as url:
            answer = httpx.post(f"{url}/", json=original_request(np.zeros((1, 512), np.float32)))
            assert (answer.status_code, slug(answer)) == (409, "space-mismatch")


def test_gadget_in_the_original_s_format_is_refused(predictor: httpx.Client, tmp_path: Path) -> None:
    target = tmp_path / "executed"

    class Gadget:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return open, (str(target), "w")  # type: ignore[return-value]

    content = base64.b64encode(pickle.dumps(Gadget())).decode()
    answer = predictor.post("/", json=json.dumps({"embeddings": {"py/b64": content}}))
    assert (answer.status_code, slug(answer)) == (400, "unreadable-message")
    assert not target.exists()

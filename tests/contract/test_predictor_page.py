"""Statement of the page about storage, which is true for every visitor and every response of the proxy."""

import re
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from agegender.keys import ApiKey, Scope
from embedder_proxy.app import create_proxy
from embedder_proxy.settings import ProxySettings
from predictor.app import create_predictor
from predictor.settings import PredictorSettings
from pydantic import SecretStr

from tests.support.embedder_double import EmbedderDouble
from tests.support.serving import free_port, serving, until

KEY, _ = ApiKey.new("browser", [Scope.PREDICT])
SECRET = SecretStr("a secret among the services")
MAY_BE_KEPT = "Numbers that describe their faces may stay in a cache for a limited time."


def privacy(url: str) -> str:
    answer = httpx.get(url)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    (sentence,) = re.findall(r'<p id="privacy">(.*?)</p>', answer.text)
    return str(sentence)


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        (0, "Nothing is stored."),
        (30, "stay in a cache for up to a minute."),
        (3600, "stay in a cache for up to 60 minutes."),
        (90, "stay in a cache for up to 2 minutes."),
    ],
)
def test_page_states_without_a_key_how_long_embeddings_are_kept(
    seconds: int, message: str, keyed: bool, tmp_path: Path
) -> None:
    keys: dict[str, Any] = {"api_keys": (KEY,), "service_key": SECRET} if keyed else {}
    with EmbedderDouble().served() as double:
        settings = ProxySettings(embedder_urls=[double.url], cache_ttl=seconds, probe_interval=0.1, **keys)
        with serving(create_proxy(settings)) as proxy:
            until(lambda: httpx.get(f"{proxy}/health/ready").is_success, "the proxy is ready", 10, 0.05)
            predictor = create_predictor(PredictorSettings(data_dir=tmp_path, proxy_url=proxy, **keys))
            with serving(predictor) as url:
                assert privacy(url).endswith(message)
                assert ("Nothing is stored" in privacy(url)) == (seconds == 0)


def test_page_never_states_that_nothing_is_stored_while_it_cannot_know(tmp_path: Path) -> None:
    absent = f"http://127.0.0.1:{free_port()}"
    with serving(create_predictor(PredictorSettings(data_dir=tmp_path, proxy_url=absent))) as url:
        assert privacy(url).endswith(MAY_BE_KEPT)
    with EmbedderDouble().served() as double:  # a proxy that does not say what it keeps
        settings = PredictorSettings(data_dir=tmp_path, proxy_url=double.url)
        with serving(create_predictor(settings)) as url:
            assert privacy(url).endswith(MAY_BE_KEPT)
            assert httpx.get(f"{url}/info").json()["embedding_cache_seconds"] is None


def test_page_does_not_wait_for_a_proxy_that_hangs(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = PredictorSettings(
            data_dir=tmp_path, proxy_url=f"http://127.0.0.1:{silent.getsockname()[1]}"
        )
        with serving(create_predictor(settings)) as url:
            assert httpx.get(url, timeout=4).text.count(MAY_BE_KEPT) == 1


def test_no_script_or_file_of_the_page_claims_anything_about_storage() -> None:
    """The sentence stands in one place; a script's answer may not come."""
    folder = Path(create_predictor.__code__.co_filename).parent / "static"
    for file in folder.glob("*.*"):
        assert "Nothing is stored" not in file.read_text(), file.name

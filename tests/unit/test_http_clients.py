"""A private address is never asked through a proxy; a wrong address or proxy gets a sentence."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from agegender.errors import Problem
from agegender.faces import EVERY_FACE
from agegender.http_clients import direct_options, environment_proxy, is_private, service_url
from agegender.spaces import Space
from agegender_client import AsyncClient, Client, ClientSettings
from agegender_client.cli.app import main
from agegender_service.deadlines import Deadline
from agegender_service.faces_client import BlockingFacesClient, FacesClient
from embedder_proxy.app import create_proxy
from embedder_proxy.settings import ProxySettings
from predictor.settings import PredictorSettings
from pydantic import ValidationError
from trainer.settings import TrainerSettings

from tests.support.embedder_double import SPACE, EmbedderDouble
from tests.support.recording_proxy import RecordingProxy, recording_proxy
from tests.support.service_double import Service
from tests.support.serving import serving, until
from tools import original_client, screenshots
from tools.stack import Stack

MODELS: dict[str, list[str]] = {"models": [], "warnings": []}
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
KEY = "secret-of-the-services"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordingProxy]:
    """A proxy that the environment names for everything."""
    with recording_proxy(b'{"models": [], "warnings": []}') as recorded:
        for name in VARIABLES:
            monkeypatch.setenv(name, recorded.url)
        yield recorded


@pytest.fixture
def service() -> Iterator[tuple[str, Service]]:
    double = Service()
    with serving(double.app()) as url:
        yield url, double


def settings(url: str, **changes: Any) -> ClientSettings:
    return ClientSettings(
        **{
            "predictor_url": url,
            "trainer_url": url,
            "proxy_url": url,
            "api_key": KEY,
            "patience": 1,
            **changes,
        }
    )


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "LOCALHOST.", "10.1.2.3", "172.16.0.1"),
        *("172.31.255.255", "192.168.1.5", "169.254.1.1", "100.64.0.1", "fe80::1", "fe80::1%eth0", "fd00::5"),
        *("predictor", "embedder-proxy", "host.docker.internal", "faces.local", "predictor.default.svc"),
        *(
            "predictor.default.svc.cluster.local",
            "::ffff:10.0.0.1",
            "127.1",
            "0x7f.1",
            "2130706433",
            "0.0.0.0",
        ),
    ],
)
def test_host_of_a_private_network_is_private(host: str) -> None:
    assert is_private(host)


@pytest.mark.parametrize(
    "host",
    ["example.org", "8.8.8.8", "172.32.0.1", "2001:4860:4860::8888", "localhost.example.org", "8.8.2056"],
)
def test_other_hosts_are_public(host: str) -> None:
    assert not is_private(host)


def test_client_sends_neither_request_nor_key_for_this_machine_to_the_proxy(
    proxy: RecordingProxy, service: tuple[str, Service]
) -> None:
    url, double = service
    double.will_answer(MODELS)
    with Client(settings(url)) as client:
        assert client.models().models == []
    assert proxy.requests == []
    assert double.requests[0][2]["authorization"] == f"Bearer {KEY}"


async def test_asynchronous_client_does_not_either(
    proxy: RecordingProxy, service: tuple[str, Service]
) -> None:
    url, double = service
    double.will_answer(MODELS)
    async with AsyncClient(settings(url)) as client:
        assert (await client.models()).models == []
    assert proxy.requests == [] and len(double.requests) == 1


def test_command_line_does_not_either(
    proxy: RecordingProxy, service: tuple[str, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, double = service
    double.will_answer(MODELS)
    assert exit_code(monkeypatch, "models", AGEGENDER_PREDICTOR_URL=url, AGEGENDER_API_KEY=KEY) == 0
    assert proxy.requests == [] and len(double.requests) == 1


@pytest.mark.parametrize("host", ["http://faces.example", "http://trainer.corp"])
def test_services_never_ask_each_other_through_the_proxy(proxy: RecordingProxy, host: str) -> None:
    with (
        BlockingFacesClient(host, headers={"Authorization": KEY}, patience=0) as client,
        pytest.raises(Problem),
    ):
        client.space()
    assert proxy.requests == []


async def test_predictor_never_asks_through_the_proxy(proxy: RecordingProxy) -> None:
    client = FacesClient("http://faces.example", headers={"Authorization": KEY})
    with pytest.raises(Problem):
        await client.faces([b"image"], EVERY_FACE, Deadline.after(5))
    await client.close()
    assert proxy.requests == []


def test_embedder_proxy_never_asks_through_the_proxy(proxy: RecordingProxy) -> None:
    with EmbedderDouble().served() as embedder:
        app = create_proxy(ProxySettings(embedder_urls=[embedder.url], cache_ttl=0))
        with serving(app) as url, httpx.Client(trust_env=False) as http:
            until(lambda: http.get(f"{url}/health/ready").is_success, "the proxy is ready")
    assert proxy.requests == []


def test_extraction_finds_the_embedder_proxy_beside_it(proxy: RecordingProxy) -> None:
    with EmbedderDouble().served() as double, BlockingFacesClient(double.url, patience=300) as client:
        assert client.space() == Space(id=SPACE.id, dimension=SPACE.dimension)
    assert proxy.requests == []


def test_tools_do_not_ask_this_machine_through_the_proxy(
    proxy: RecordingProxy,
    service: tuple[str, Service],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, double = service
    (tmp_path / "netrc").write_text("default login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(screenshots, "IMAGES", tmp_path)
    double.will_answer({}, {}, {})
    screenshots.annotate(url)
    original_client.post(url, {"image": b"x"})
    stack = Stack(run_dir=tmp_path, data_dir=tmp_path, ports={"predictor": int(url.rpartition(":")[2])})
    assert stack._why_not_ready("predictor") is None
    assert proxy.requests == [] and len(double.requests) == 3
    assert not any("authorization" in headers for _, _, headers, _ in double.requests)


def test_public_host_is_asked_through_the_proxy_unless_excluded(
    proxy: RecordingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(settings("http://faces.example")) as client:
        assert client.models().models == []
    assert proxy.requests[0][0] == "GET http://faces.example/models HTTP/1.1"
    monkeypatch.setenv("NO_PROXY", "other.example, faces.example")
    assert environment_proxy("http://faces.example:8080/path") is None
    with Client(settings("http://faces.example")) as client, pytest.raises(Problem, match="make up"):
        client.models()
    assert len(proxy.requests) == 1


def test_proxy_that_refuses_is_named_without_its_password(
    proxy: RecordingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//user:word@"))
    with Client(settings("https://faces.example")) as client, pytest.raises(Problem) as raised:
        client.models()
    assert proxy.requests[0][0].startswith("CONNECT faces.example:443")
    assert raised.value.slug == "unreachable" and "NO_PROXY=faces.example" in raised.value.detail
    assert f"{proxy.url}, which HTTPS_PROXY names" in raised.value.detail
    assert "word@" not in raised.value.detail


def test_netrc_is_not_sent(
    service: tuple[str, Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("default login somebody password else\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    url, double = service
    double.will_answer(MODELS, MODELS)
    with Client(settings(url, api_key=None)) as client:
        client.models()
    assert "authorization" not in double.requests[0][2]


def test_user_name_in_the_address_leaves_the_key_another_header(service: tuple[str, Service]) -> None:
    url, double = service
    double.will_answer(MODELS)
    with Client(settings(url.replace("//", "//user:word@"))) as client:
        client.models()
    headers = double.requests[0][2]
    assert headers["authorization"].startswith("Basic ") and headers["x-api-key"] == KEY


@pytest.mark.parametrize("proxy_url", ["socks5://127.0.0.1:1", "gopher://127.0.0.1:1", "http://:80"])
def test_proxy_that_cannot_be_used_matters_to_public_hosts_alone_and_gets_a_sentence(
    service: tuple[str, Service],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    proxy_url: str,
) -> None:
    if proxy_url.startswith("socks"):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("ALL_PROXY", proxy_url)
    url, double = service
    double.will_answer(MODELS)
    assert exit_code(monkeypatch, "models", AGEGENDER_PREDICTOR_URL=url) == 0
    assert exit_code(monkeypatch, "models", AGEGENDER_PREDICTOR_URL="http://faces.example") == 2
    error = capsys.readouterr().err
    assert "ALL_PROXY" in error and "Traceback" not in error and len(error.splitlines()) <= 2


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:10003", "has no scheme"),
        ("localhost", "has no scheme"),
        ("ftp://127.0.0.1", "has the scheme 'ftp'"),
        ("http://", "has no host"),
        ("http://127.0.0.1:99999", "is not an address"),
        ("http://127.0.0.1:port", "is not an address"),
        ("http://127.0.0.1:0", "has the port 0"),
        ("http://[::1", "is not an address"),
        ("http://127.0.0.1/?key=x", "has a query"),
    ],
)
def test_wrong_address_gets_one_sentence_that_names_the_variable(
    url: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, "models", AGEGENDER_PREDICTOR_URL=url) == 2
    error = capsys.readouterr().err
    assert "AGEGENDER_PREDICTOR_URL" in error and message in error and "http://127.0.0.1:10003" in error
    assert "Traceback" not in error and len(error.splitlines()) == 1
    for model in (PredictorSettings, TrainerSettings):
        with pytest.raises(ValidationError, match="expected an address such as"):
            model(proxy_url=url)


def test_password_in_a_wrong_address_and_a_wrong_key_are_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {"AGEGENDER_PREDICTOR_URL": "http://me:word@host:99999", "AGEGENDER_API_KEY": "my käy"}
    assert exit_code(monkeypatch, "models", **arguments) == 2
    error = capsys.readouterr().err
    assert "AGEGENDER_API_KEY" in error and "käy" not in error and "word" not in error


def test_slash_at_the_end_is_omitted_and_a_path_is_kept(service: tuple[str, Service]) -> None:
    assert service_url(" https://example.org/faces/ ") == "https://example.org/faces"
    url, double = service
    double.will_answer(MODELS, MODELS)
    for address in (f"{url}/", f"{url}/prefix/"):
        with Client(settings(address)) as client:
            client.models()
    assert [request[1] for request in double.requests] == ["/models", "/prefix/models"]


def test_route_in_the_address_is_named_where_it_is_not_found(tmp_path: Path) -> None:
    app = create_proxy(ProxySettings(data_dir=tmp_path, cache_ttl=0))
    with serving(app) as url, Client(settings(f"{url}/faces")) as client, pytest.raises(Problem) as raised:
        client.faces([b"x"])
    assert raised.value.status == 404 and "has the path '/faces'; leave it out" in raised.value.detail


def test_another_program_at_the_address_gets_a_sentence(service: tuple[str, Service]) -> None:
    url, double = service
    double.will_answer({"hello": "world"})
    with Client(settings(url)) as client, pytest.raises(Problem, match="AGEGENDER_PREDICTOR_URL") as raised:
        client.models()
    assert (raised.value.slug, raised.value.status) == ("bad-answer", 502)


def test_key_from_a_file_may_end_in_a_line_break() -> None:
    assert settings("http://host", api_key=f"{KEY}\n").headers("http://host") == {
        "Authorization": f"Bearer {KEY}"
    }


def test_certificates_of_the_environment_reach_every_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    for make in (lambda: FacesClient("http://x"), lambda: Client(settings("http://x")), direct_options):
        with pytest.raises(Problem, match="SSL_CERT_FILE is") as raised:
            make()
        assert raised.value.slug == "bad-settings"
    certificates = Path(httpx.__file__).parents[1] / "certifi" / "cacert.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates))
    assert isinstance(direct_options()["verify"], ssl.SSLContext)


def exit_code(monkeypatch: pytest.MonkeyPatch, *arguments: str, **environment: str) -> int:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["agegender", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)

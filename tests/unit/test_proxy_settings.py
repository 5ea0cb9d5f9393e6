"""The proxy's settings are checked at start."""

import pytest
from embedder_proxy.pool import addresses
from embedder_proxy.settings import ProxySettings
from pydantic import ValidationError


def test_urls_are_a_comma_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXY_EMBEDDER_URLS", "http://one:10001/, https://two/embedder,")
    assert ProxySettings().embedder_urls == ["http://one:10001", "https://two/embedder"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROXY_EMBEDDER_URLS", "insightface:10001"),
        ("PROXY_EMBEDDER_URLS", "file:///etc/passwd"),
        ("PROXY_EMBEDDER_URLS", "http://user:password@insightface:10001"),
        ("PROXY_EMBEDDER_URLS", "http://insightface:99999"),
        ("PROXY_EMBEDDER_WIRE", "pickle"),
        ("PROXY_EMBEDDER_SPACE", "../human"),
        ("MAX_IMAGES", "0"),
        ("PROXY_TIMEOUT_SECONDS", "-1"),
        ("PROXY_CACHE_SECONDS", "-1"),
        ("PROXY_ATTEMPTS", "many"),
    ],
)
def test_unusable_settings_end_the_start(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError):
        ProxySettings()


async def test_each_address_of_a_name_is_one_embedder(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_: object, **__: object) -> list[tuple[object, ...]]:
        hosts = ["10.0.0.3", "10.0.0.2", "10.0.0.2"]
        return [(2, 1, 6, "", (host, 10001)) for host in hosts] + [(10, 1, 6, "", ("fd00::2", 10001, 0, 0))]

    monkeypatch.setattr("asyncio.base_events.BaseEventLoop.getaddrinfo", getaddrinfo)
    assert await addresses(["http://insightface:10001"]) == ["http://10.0.0.2:10001", "http://10.0.0.3:10001"]


async def test_one_name_for_both_kinds_of_address_is_one_embedder() -> None:
    assert await addresses(["http://localhost:10001"]) == ["http://127.0.0.1:10001"]


async def test_an_address_or_a_secure_url_stays_as_it_is() -> None:
    urls = ["http://127.0.0.1:7", "http://[::1]:7", "https://embedder.example:7/path"]
    assert await addresses(urls) == urls

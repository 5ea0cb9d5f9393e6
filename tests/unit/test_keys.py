"""Keys, and when a service refuses to start."""

from pathlib import Path

import pytest
from agegender.keys import ApiKey, Scope, key_of
from agegender_service.settings import ServiceSettings
from pydantic import SecretStr, ValidationError

SECRET = "s" * 32


def made(name: str = "camera", *scopes: Scope) -> tuple[ApiKey, str]:
    return ApiKey.new(name, scopes or [Scope.PREDICT])


def test_key_is_found_by_its_secret_and_not_by_its_hash() -> None:
    (camera, secret), (other, _) = made(), made("other")
    assert key_of(secret, [other, camera]) is camera
    assert key_of(camera.sha256, [other, camera]) is None
    assert key_of("", [other, camera]) is None


def test_entry_holds_no_secret_and_reads_back() -> None:
    key, secret = made("camera", Scope.TRAIN, Scope.PREDICT)
    assert secret not in str(key)
    assert ApiKey.parse(str(key)) == key


@pytest.mark.parametrize(
    "entry", ["", "camera", "camera:predict:secret", "camera:all:" + "0" * 64, ":predict:"]
)
def test_entry_that_is_none_is_refused_without_repeating_it(entry: str) -> None:
    with pytest.raises(ValueError) as refused:
        ApiKey.parse(entry)
    assert "camera:predict:secret" not in str(refused.value)


def test_admin_may_do_everything_and_others_only_theirs() -> None:
    admin, _ = made("admin", Scope.ADMIN)
    camera, _ = made()
    assert all(admin.allows(scope) for scope in Scope)
    assert [scope for scope in Scope if camera.allows(scope)] == [Scope.PREDICT]


def test_settings_read_several_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [made(name)[0] for name in ("one", "two")]
    monkeypatch.setenv("API_KEYS", f"{keys[0]},\n {keys[1]}\n")
    monkeypatch.setenv("SERVICE_KEY", SECRET)
    settings = ServiceSettings()
    assert list(settings.api_keys) == keys
    assert [key.name for key in settings.known_keys] == ["one", "two", "service"]
    assert SECRET not in repr(settings)


@pytest.mark.parametrize("setting", [{"api_keys": (made()[0],)}, {"rate_limit": "5/minute"}])
def test_keys_and_limits_need_a_key_among_the_services(setting: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="SERVICE_KEY"):
        ServiceSettings.model_validate(setting)


def test_rate_that_is_none_is_refused_at_start() -> None:
    with pytest.raises(ValidationError):
        ServiceSettings(rate_limit="often", service_key=SecretStr(SECRET))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_localhost_needs_no_keys(address: str) -> None:
    assert ServiceSettings(host=address).why_exposed() is None
    assert ServiceSettings(host="0.0.0.0", published_on=address).why_exposed() is None


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_strangers_are_not_served_without_keys_unless_configured(address: str) -> None:
    assert "API_KEYS" in str(ServiceSettings(host=address).why_exposed())
    assert ServiceSettings(host=address, allow_anonymous=True).why_exposed() is None
    with_keys = ServiceSettings(host=address, api_keys=(made()[0],), service_key=SecretStr(SECRET))
    assert with_keys.why_exposed() is None


def test_redis_password_goes_into_the_url_from_where_it_is_first_found(tmp_path: Path) -> None:
    file = tmp_path / "redis-password"
    file.write_text("made up\n")
    url = "redis://redis:6379/0"
    by_file = ServiceSettings(redis_url=url, redis_password_file=file)
    assert by_file.redis_url == "redis://:made%20up@redis:6379/0"
    by_name = ServiceSettings(redis_url=url, redis_password=SecretStr("a/b@c"), redis_password_file=file)
    assert by_name.redis_url == "redis://:a%2Fb%40c@redis:6379/0"
    own = ServiceSettings(redis_url="redis://me:own@redis:6379/0", redis_password_file=file)
    assert own.redis_url == "redis://me:own@redis:6379/0"
    assert ServiceSettings(redis_url="unix:///run/redis.sock").redis_url == "unix:///run/redis.sock"
    with pytest.raises(ValidationError, match="REDIS_PASSWORD_FILE"):
        ServiceSettings(redis_url=url, redis_password_file=tmp_path / "absent")

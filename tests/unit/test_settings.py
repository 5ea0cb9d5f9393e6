"""Every documented setting works as an environment variable, as users and Compose give it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml  # type: ignore[import-untyped]
from agegender.environment import EnvironmentSettings, documented_fields, explain, variables
from agegender.errors import Problem
from agegender.keys import ApiKey, Scope
from agegender_client.settings import ClientSettings
from agegender_service.settings import UNUSABLE_SETTINGS, ServiceSettings, UnusableSettings, read_settings
from embedder.settings import EmbedderSettings
from embedder_proxy.settings import ProxySettings
from predictor.aws_signatures import AwsCredential
from predictor.settings import PredictorSettings
from pydantic import ValidationError
from pydantic_settings import BaseSettings
from trainer.settings import TrainerSettings

from tools import configuration
from tools.stack import ROOT

KEY = str(ApiKey.new("camera", [Scope.PREDICT, Scope.TRAIN])[0])
SECRET = "twenty characters or more"
# What a user would write, where the type alone does not say it; and what comes of it.
PLAUSIBLE: dict[str, tuple[str, Any]] = {
    "HOST": ("192.0.2.7", "192.0.2.7"),
    "PUBLISHED_ON": ("192.0.2.8", "192.0.2.8"),
    "API_KEYS": (f"{KEY},\n{KEY}", (ApiKey.parse(KEY), ApiKey.parse(KEY))),
    "RATE_LIMIT": ("10/second;1000/hour", "10/second;1000/hour"),
    "WRONG_KEY_LIMIT": ("7/minute", "7/minute"),
    "CORS_ORIGINS": (
        "http://x.example, https://Y.example:8443/",
        ("http://x.example", "https://y.example:8443"),
    ),
    "ALLOWED_HOSTS": ("faces.example.org,Localhost", ("faces.example.org", "localhost")),
    "REDIS_URL": ("rediss://:word@redis.example:6380/1", "rediss://:word@redis.example:6380/1"),
    "MAX_BODY_MEMORY_BYTES": ("300000000", 300_000_000),
    "EMBEDDER_PACK": ("human+buffalo_sc", "human+buffalo_sc"),
    "PROXY_EMBEDDER_URLS": ("http://one:10001/, https://two/embedder,", ["http://one:10001", "https://two/embedder"]),
    "PROXY_EMBEDDER_SPACE": ("buffalo_sc-5", "buffalo_sc-5"),
    "REKOGNITION_CREDENTIALS": (f"AKID:{SECRET}:camera", (AwsCredential("AKID", SECRET, "camera"),)),
    "PROXY_URL": ("https://proxy.example/faces/", "https://proxy.example/faces"),
    "PREDICTOR_URL": ("https://predictor.example/", "https://predictor.example"),
    "AGEGENDER_API_KEY": ("a-key-of-this-user", "a-key-of-this-user"),
    "AGEGENDER_PREDICTOR_URL": ("https://faces.example", "https://faces.example"),
    "AGEGENDER_TRAINER_URL": ("https://train.example", "https://train.example"),
    "AGEGENDER_PROXY_URL": ("https://proxy.example", "https://proxy.example"),
}  # fmt: skip
SETTINGS = [
    (settings, name) for settings in configuration.SECTIONS.values() for name in documented_fields(settings)
]


def plausible(settings: type[BaseSettings], name: str, variable: str, tmp_path: Path) -> tuple[str, Any]:
    """The text for a variable that is not its default, and the value that must come of it."""
    if variable in PLAUSIBLE:
        return PLAUSIBLE[variable]
    field = settings.model_fields[name]
    kind = field.annotation
    if get_origin(kind) is Literal:
        other = next(choice for choice in get_args(kind) if choice != field.default)
        return other, other
    if kind is bool:
        return ("0", False) if field.default else ("1", True)
    if kind in (int, float):
        return "7", 7
    if "Path" in str(kind):
        (tmp_path / "word").write_text("word\n")
        return str(tmp_path / "word"), tmp_path / "word"
    assert "Secret" in str(kind), f"{variable}: say here what a user would write for it"
    return SECRET, SECRET


def read_error(settings: type[EnvironmentSettings]) -> str:
    """Return the message with which a program rejects its environment."""
    if issubclass(settings, ClientSettings):
        with pytest.raises(Problem) as problem:
            settings.from_environment()
        return problem.value.detail
    with pytest.raises(ValidationError) as raised:
        settings()
    return explain(settings, raised.value)


def value_of(settings: BaseSettings, name: str) -> Any:
    value = getattr(settings, name)
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment in which no setting is given."""
    for settings in configuration.SECTIONS.values():
        for name in settings.model_fields:
            for variable in [*variables(settings, name), *settings.formerly]:
                monkeypatch.delenv(variable, raising=False)
    yield monkeypatch


@pytest.mark.parametrize("title", configuration.SECTIONS)
def test_every_documented_setting_is_taken_from_the_environment(
    title: str, bare: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = configuration.SECTIONS[title]
    for name in documented_fields(settings):
        for variable in variables(settings, name):
            text, value = plausible(settings, name, variable, tmp_path)
            with bare.context() as environment:
                environment.setenv("SERVICE_KEY", SECRET)  # keys and limits need it
                environment.setenv("API_KEYS", KEY)  # credentials need it
                environment.setenv(variable, text)
                read = read_settings(settings)
                assert value_of(read, name) == value, variable
                assert value != settings.model_fields[name].default, f"{variable}: that is its default"


@pytest.mark.parametrize("title", configuration.SECTIONS)
def test_all_documented_settings_are_taken_together(
    title: str, bare: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = configuration.SECTIONS[title]
    expected = {}
    for name in documented_fields(settings):
        variable = variables(settings, name)[0]
        text, expected[name] = plausible(settings, name, variable, tmp_path)
        bare.setenv(variable, text)
    read = read_settings(settings)
    assert {name: value_of(read, name) for name in expected} == expected


@pytest.mark.parametrize("title", configuration.SECTIONS)
def test_an_empty_variable_means_the_default(title: str, bare: pytest.MonkeyPatch) -> None:
    settings = configuration.SECTIONS[title]
    default = settings()
    for name in settings.model_fields:
        for variable in [*variables(settings, name), *settings.formerly]:
            bare.setenv(variable, "")
    assert settings() == default


DEPRECATED = [
    (settings, old, new)
    for settings in configuration.SECTIONS.values()
    for old, new in settings.formerly.items()
]
CONSTANTS = [
    (settings, name) for settings in configuration.SECTIONS.values() for name in sorted(settings.constants)
]


@pytest.mark.parametrize(("settings", "old", "new"), DEPRECATED)
def test_former_name_of_a_setting_applies_until_the_new_one_is_set(
    settings: type[EnvironmentSettings], old: str, new: str, bare: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (name,) = (name for name in documented_fields(settings) if new in variables(settings, name))
    text, value = plausible(settings, name, new, tmp_path)
    bare.setenv(old, text)
    assert value_of(read_settings(settings), name) == value
    (sentence,) = settings.deprecations()
    assert old in sentence and f"Use {new}" in sentence
    bare.setenv(old, "no value that is allowed")
    bare.setenv(new, text)
    assert value_of(read_settings(settings), name) == value
    (sentence,) = settings.deprecations()
    assert f"{old} is deprecated and ignored" in sentence


@pytest.mark.parametrize(("settings", "name"), CONSTANTS)
def test_setting_that_became_a_constant_applies_for_one_release(
    settings: type[EnvironmentSettings], name: str, bare: pytest.MonkeyPatch
) -> None:
    (old,) = variables(settings, name)
    assert settings.deprecations() == []
    bare.setenv(old, "7")
    assert getattr(read_settings(settings), name) == 7
    (sentence,) = settings.deprecations()
    assert old in sentence and str(settings.model_fields[name].default) in sentence


def test_program_logs_each_deprecated_name_once(
    bare: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bare.setenv("PROXY_TIMEOUT", "7")
    bare.setenv("PROXY_ATTEMPTS", "7")
    EnvironmentSettings.log_deprecations.cache_clear()
    for _ in range(2):
        read_settings(ProxySettings).log_deprecations()
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "PROXY_TIMEOUT_SECONDS" in caplog.text and "PROXY_ATTEMPTS" in caplog.text


def test_variable_that_is_not_documented_is_not_read(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("PROXY_HOST", "192.0.2.7")  # which pydantic-settings alone would read
    bare.setenv("PROXY_MAX_BODY_BYTES", "7")
    assert ProxySettings() == ProxySettings(host="127.0.0.1")


def test_few_enough_variables_are_documented() -> None:
    assert len(configuration.documented_variables()) <= 62


def test_no_settings_class_replaces_a_validator_of_its_parent() -> None:
    def below(settings: type[BaseSettings]) -> set[type[BaseSettings]]:
        return {settings}.union(*(below(child) for child in settings.__subclasses__()))

    classes = below(ServiceSettings) | set(configuration.SECTIONS.values())
    assert len(classes) >= 7
    for settings in classes:
        decorators = settings.__pydantic_decorators__
        own = {*decorators.field_validators, *decorators.model_validators} & set(vars(settings))
        for parent in settings.__mro__[1:]:
            replaced = {name for name in own if name in vars(parent)}
            assert not replaced, f"{settings.__name__} replaces {replaced} of {parent.__name__}"


REFUSED = [
    (
        ProxySettings,
        "PROXY_TIMEOUT_SECONDS",
        "-1",
        "PROXY_TIMEOUT_SECONDS='-1': Input should be greater than 0",
    ),
    (PredictorSettings, "PREDICTOR_TIMEOUT_SECONDS", "inf", "Input should be a finite number"),
    (
        TrainerSettings,
        "SERVICE_KEY",
        "ü" * 20,
        "SERVICE_KEY: got a service key that no HTTP header can carry",
    ),
    (ProxySettings, "MAX_BODY_MEMORY_BYTES", "1000", "MAX_BODY_MEMORY_BYTES=1000 has no room"),
    (ProxySettings, "MAX_IMAGE_BYTES", "20MiB", "MAX_IMAGE_BYTES='20MiB': "),
    (ProxySettings, "PROXY_PORT", "65536", "PROXY_PORT='65536': "),
    (ProxySettings, "PORT", "65536", "PORT='65536': "),
    (ProxySettings, "PROXY_CACHE_TTL", "long", "PROXY_CACHE_TTL='long': "),  # deprecated names
    (ProxySettings, "PROXY_ATTEMPTS", "many", "PROXY_ATTEMPTS='many': "),
    (ProxySettings, "ALLOW_ANONYMOUS", "perhaps", "ALLOW_ANONYMOUS='perhaps': "),
    (ProxySettings, "LOG_FORMAT", "xml", "LOG_FORMAT='xml': Input should be 'console' or 'json'"),
    (ProxySettings, "PROXY_EMBEDDER_URLS", "insightface:10001", "expected an address such as http://"),
    (ProxySettings, "CORS_ORIGINS", "x.example", "expected one such as https://example.org"),
    (ProxySettings, "CORS_ORIGINS", "https://x.example/page", "expected one such as https://example.org"),
    (ProxySettings, "CORS_ORIGINS", "*", "CORS_ORIGINS=* needs API_KEYS"),
    (ProxySettings, "ALLOWED_HOSTS", "https://x.example", "expected one such as faces.example.org"),
    (ProxySettings, "ALLOWED_HOSTS", "x.example:10003", "expected one such as faces.example.org"),
    (ProxySettings, "RATE_LIMIT", "5/minute", "need SERVICE_KEY"),
    (ProxySettings, "RATE_LIMIT", "often", "RATE_LIMIT='often': "),
    (ProxySettings, "REDIS_URL", "redis.example:6379", "REDIS_URL: expected a URL such as redis://"),
    (PredictorSettings, "PROXY_URL", "proxy:10002", "PROXY_URL='proxy:10002': "),
    (TrainerSettings, "TRAINER_PROXY_URL", "proxy:10002", "TRAINER_PROXY_URL='proxy:10002': "),
    (TrainerSettings, "TRAINER_DEVICE", "gpu", "TRAINER_DEVICE='gpu': "),
]


@pytest.mark.parametrize(("settings", "variable", "text", "message"), REFUSED)
def test_unusable_value_ends_the_program_with_one_line_that_names_it(
    settings: type[EnvironmentSettings],
    variable: str,
    text: str,
    message: str,
    bare: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bare.setenv(variable, text)
    with pytest.raises(UnusableSettings) as raised:
        read_settings(settings)
    assert raised.value.code == UNUSABLE_SETTINGS
    line = capsys.readouterr().err
    assert line.startswith("error: not started. ") and line.count("\n") == 1
    assert message in line


NUMBERS = [
    (settings, name)
    for settings in configuration.SECTIONS.values()
    for name, field in settings.model_fields.items()
    if field.annotation is float
]


@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "1e300"])
@pytest.mark.parametrize(("settings", "name"), NUMBERS)
def test_seconds_that_nothing_can_wait_for_are_rejected(
    settings: type[EnvironmentSettings], name: str, text: str, bare: pytest.MonkeyPatch
) -> None:
    for variable in variables(settings, name):
        bare.setenv(variable, text)
        assert f"{variable}={text!r}: Input should be " in read_error(settings)
        bare.delenv(variable)


@pytest.mark.parametrize(
    "key", ["a key from the café nearby", "a\tsecret among the services", "x" * 19 + " "]
)
def test_service_key_that_no_header_carries_is_rejected(key: str, bare: pytest.MonkeyPatch) -> None:
    bare.setenv("SERVICE_KEY", key)
    message = read_error(ProxySettings)
    assert message.startswith("SERVICE_KEY: got a service key ") and key not in message


def test_service_key_matches_itself_whatever_blanks_surround_it(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("SERVICE_KEY", f" {SECRET} \n")
    settings = read_settings(ProxySettings)
    sent = settings.service_headers["Authorization"].removeprefix("Bearer ")
    assert sent == SECRET
    assert [key.opens(sent) for key in settings.known_keys] == [True]


@pytest.mark.parametrize("settings", [ProxySettings, PredictorSettings])
def test_memory_of_bodies_has_room_for_the_largest_one(
    settings: type[ProxySettings | PredictorSettings], bare: pytest.MonkeyPatch
) -> None:
    needed = settings().body_limits.max_body_bytes
    bare.setenv("MAX_BODY_MEMORY_BYTES", str(needed - 1))
    message = read_error(settings)
    assert f"MAX_BODY_MEMORY_BYTES={needed - 1} has no room" in message and f"at least {needed}" in message
    bare.setenv("MAX_BODY_MEMORY_BYTES", str(needed))
    assert read_settings(settings).max_body_memory == needed
    bare.setenv("MAX_REQUEST_BYTES", str(1024**3))
    bare.delenv("MAX_BODY_MEMORY_BYTES")
    assert "MAX_REQUEST_BYTES (1073741824)" in read_error(settings)


@pytest.mark.parametrize("variable", ["SERVICE_KEY", "API_KEYS", "REDIS_URL"])
def test_value_of_a_secret_is_never_shown(
    variable: str, bare: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bare.setenv(variable, "hush")
    with pytest.raises(UnusableSettings):
        read_settings(ProxySettings)
    line = capsys.readouterr().err
    assert variable in line and "hush" not in line


def test_password_in_an_address_is_never_shown(
    bare: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bare.setenv("PROXY_URL", "http://me:hush@proxy:10002")
    with pytest.raises(UnusableSettings):
        read_settings(PredictorSettings)
    line = capsys.readouterr().err
    assert "PROXY_URL" in line and "hush" not in line


# What Compose gives the containers itself: their ports, folders and each other's addresses.
OF_COMPOSE = {
    "HOST", "PORT", "EMBEDDER_PORT", "PROXY_PORT", "PREDICTOR_PORT", "TRAINER_PORT", "PUBLISHED_ON",
    "DATA_DIR", "REDIS_URL", "REDIS_PASSWORD_FILE", "EMBEDDER_HUMAN_DIR", "HEADS_DIR", "PROXY_URL",
    "PREDICTOR_URL", "PREDICTOR_HEADS_DIR", "PREDICTOR_PROXY_URL", "TRAINER_HEADS_DIR", "TRAINER_PROXY_URL",
}  # fmt: skip


@pytest.mark.parametrize(
    ("container", "settings"),
    [
        ("insightface", EmbedderSettings),
        ("embedder-proxy", ProxySettings),
        ("predictor", PredictorSettings),
        ("trainer", TrainerSettings),
        ("trainer-worker", TrainerSettings),
    ],
)
def test_compose_passes_every_documented_setting_to_its_container(
    container: str, settings: type[EnvironmentSettings]
) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    passed = services[container]["environment"]
    documented = {variable for name in settings.model_fields for variable in variables(settings, name)}
    redis = {"REDIS_PASSWORD"} if container == "insightface" else set()  # which reaches no Redis
    documented |= set(settings.formerly)
    for variable in documented - OF_COMPOSE - redis:
        assert passed[variable].startswith(f"${{{variable}:-"), variable
    assert set(passed) <= documented | {"FORWARDED_ALLOW_IPS"}  # uvicorn's own

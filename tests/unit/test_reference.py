"""Generated pages and the blocking client are up to date, and pages name existing settings."""

import re
import subprocess
from pathlib import Path

import pytest
from agegender.environment import EnvironmentSettings, variables
from pydantic_settings import BaseSettings

from tools import api_reference, configuration, unasync_client
from tools.stack import ROOT

VARIABLE = re.compile(r"\b(?:EMBEDDER|PROXY|PREDICTOR|TRAINER|AGEGENDER|REDIS|MAX)_[A-Z0-9_]+\b")


def test_configuration_page_is_up_to_date() -> None:
    assert configuration.PAGE.read_text() == configuration.page(), "run `make reference` and commit it"


def test_api_page_is_up_to_date() -> None:
    assert api_reference.PAGE.read_text() == api_reference.page(), "run `make reference` and commit it"


@pytest.mark.parametrize("source", unasync_client.MODULES, ids=lambda path: path.stem)
def test_blocking_client_is_generated_from_the_asynchronous_one(source: Path) -> None:
    generated = unasync_client.generated(source)
    target, _ = unasync_client.MODULES[source]
    assert target.read_text() == generated, "run `make reference` and commit it"
    assert "async" not in generated.replace(source.stem, "").lower() and "await" not in generated


def test_every_settings_class_is_on_the_page() -> None:
    def below(settings: type[BaseSettings]) -> set[type[BaseSettings]]:
        return {settings}.union(*(below(child) for child in settings.__subclasses__()))

    ours = {cls for cls in below(EnvironmentSettings) if cls.__module__.endswith(".settings")}
    assert ours <= set(configuration.SECTIONS.values())


@pytest.mark.parametrize("title", configuration.SECTIONS)
def test_a_variable_on_the_page_is_read(title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = configuration.SECTIONS[title]
    for name, field in configuration.own_fields(settings):
        if field.annotation not in (int, float):
            continue
        value = 300_000_000 if name == "max_body_memory" else 7  # it must have room for a whole request
        for variable in variables(settings, name):
            with monkeypatch.context() as environment:
                environment.setenv(variable, str(value))
                assert getattr(settings(), name) == value


def test_pages_and_deployment_files_name_only_current_variables() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = {name for name in listed.splitlines() if name.endswith(".md") or name.startswith("deploy/")}
    files -= {"CHANGELOG.md", "docs/configuration.md"}  # they list deprecated names
    known = configuration.documented_variables() | {"AGEGENDER_DATA"}  # of tests and benchmarks
    unknown = {name: set(VARIABLE.findall((ROOT / name).read_text())) - known for name in files}
    assert not {name: variables for name, variables in unknown.items() if variables}

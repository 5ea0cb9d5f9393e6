"""The process's environment: settings read from variables, and the CPUs it may use.

Settings are read by their present names and, for one release, by their former ones.
"""

import logging
import math
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AliasChoices, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

_log = logging.getLogger(__name__)

# Seconds that sockets, event loops and deadlines in milliseconds can wait, unlike `inf` and 1e300.
MAX_SECONDS = 1_000_000
Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False)]

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")


class EnvironmentSettings(BaseSettings):
    """Base of all settings classes. An empty variable means the default.

    Only the variables that `variables` returns are read, and deprecated ones. pydantic-settings alone would
    also read the class's prefix with the name of every field, `PROXY_HOST` for example.

    formerly : a deprecated variable and the one that replaces it. If both are set, the new one applies.
    constants : fields that only code sets. Their variables (prefix and name) are deprecated.
    """

    model_config = SettingsConfigDict(
        extra="ignore", populate_by_name=True, env_ignore_empty=True, hide_input_in_errors=True
    )
    formerly: ClassVar[Mapping[str, str]] = {}
    constants: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        assert isinstance(env_settings, EnvSettingsSource)
        given = env_settings.env_vars  # names in lower case
        present = {name.lower() for field in cls.model_fields for name in variables(cls, field)}
        read = {new.lower(): given[old.lower()] for old, new in cls.formerly.items() if old.lower() in given}
        env_settings.env_vars = read | {name: value for name, value in given.items() if name in present}
        return init_settings, env_settings

    @classmethod
    def deprecations(cls) -> list[str]:
        """Return a sentence for each deprecated variable that is set: what happens, and what to do."""
        sentences = []
        for old, new in cls.formerly.items():
            if os.environ.get(old) and os.environ.get(new):
                sentences.append(f"{old} is deprecated and ignored because {new} is set. Remove {old}.")
            elif os.environ.get(old):
                sentences.append(f"{old} is deprecated. Use {new}; the next release ignores {old}.")
        for name in sorted(cls.constants):
            (old,) = variables(cls, name)
            if os.environ.get(old):
                default = cls.model_fields[name].default
                sentences.append(f"{old} is deprecated. The next release ignores it and uses {default}.")
        return sentences

    @classmethod
    @cache
    def log_deprecations(cls) -> None:
        """Log each deprecated variable that is set, once per process."""
        for sentence in cls.deprecations():
            _log.warning(sentence)


def documented_fields(settings: type[BaseSettings]) -> dict[str, FieldInfo]:
    """Return the fields that users may set, by name."""
    constants = settings.constants if issubclass(settings, EnvironmentSettings) else frozenset()
    return {name: field for name, field in settings.model_fields.items() if name not in constants}


def variables(settings: type[BaseSettings], name: str) -> list[str]:
    """Return the environment variables that set a field. The first one that is set applies."""
    field = settings.model_fields[name]
    if isinstance(field.validation_alias, AliasChoices):
        return [str(choice) for choice in field.validation_alias.choices]
    return [f"{settings.model_config.get('env_prefix', '')}{name}".upper()]


def explain(settings: type[EnvironmentSettings], error: ValidationError) -> str:
    """Return one sentence per invalid variable: its name, its value unless secret, and what was expected."""
    found = error.errors(include_url=False, include_context=False)
    return "; ".join(_sentence(settings, item) for item in found)


def _sentence(settings: type[EnvironmentSettings], item: Any) -> str:
    message = str(item["msg"]).removeprefix("Value error, ")
    fields = {variable: name for name in settings.model_fields for variable in variables(settings, name)}
    place = [str(part) for part in item["loc"]]
    name = next((fields.get(part.upper(), part) for part in place), None)
    if name is None or name not in settings.model_fields:  # a rule about several settings
        return message
    names = variables(settings, name)
    names += [old for old, new in settings.formerly.items() if new in names]
    variable = next((one for one in names if os.environ.get(one)), names[0])
    value = os.environ.get(variable, "")
    if _is_secret(settings.model_fields[name]) or "@" in value:  # a URL may contain a password
        return f"{variable}: {message}"
    return f"{variable}={value!r}: {message}"


def _is_secret(field: FieldInfo) -> bool:
    return (
        any(kind in str(field.annotation) for kind in ("Secret", "ApiKey", "Credential"))
        or "redis" in str(field.validation_alias).lower()
    )


def available_cpus() -> int:
    """Return the number of CPUs that this process may use, at least one.

    That is the scheduler's affinity mask, limited by the cgroup's quota in a container.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, cpus if quota is None else min(cpus, math.ceil(quota)))


def _cgroup_quota() -> float | None:
    try:
        if _CGROUP_V2.exists():
            limit, period = _CGROUP_V2.read_text().split()
            return None if limit == "max" else int(limit) / int(period)
        if _CGROUP_V1.exists():
            limit = _CGROUP_V1.read_text().strip()
            period = _CGROUP_V1.with_name("cpu.cfs_period_us").read_text().strip()
            return None if int(limit) <= 0 else int(limit) / int(period)
    except (OSError, ValueError):
        return None
    return None

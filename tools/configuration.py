"""`python -m tools.configuration` renews docs/configuration.md from the settings classes."""

from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from agegender_client.settings import ClientSettings
from agegender_service.settings import ServiceSettings, variables
from annotated_types import Ge, Gt, Le, Lt
from embedder.settings import EmbedderSettings
from embedder_proxy.settings import ProxySettings
from predictor.settings import PredictorSettings
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings
from trainer.settings import TrainerSettings

from tools.stack import ROOT

PAGE = ROOT / "docs" / "configuration.md"
SECTIONS: dict[str, type[BaseSettings]] = {
    "Every service": ServiceSettings,
    "insightface": EmbedderSettings,
    "embedder-proxy": ProxySettings,
    "predictor": PredictorSettings,
    "trainer and trainer-worker": TrainerSettings,
    "Client and command line": ClientSettings,
}
_HEAD = """# Configuration

Made from the settings classes by `make reference`; a test fails where it is out of date. Each setting is
an environment variable; an empty one means the default, a value that is not allowed ends the service at
start with a sentence that names it. What only `make up` or Compose reads (ports on the host, `WORKERS`,
`BIND`, …) is in [running.md](running.md); keys and limits of callers are explained in
[security.md](security.md).
"""
_TABLE = "| variable | default | values | meaning |\n| --- | --- | --- | --- |\n"
_BOUNDS = {Ge: ("ge", "at least"), Gt: ("gt", "above"), Le: ("le", "at most"), Lt: ("lt", "below")}


def own_fields(settings: type[BaseSettings]) -> Iterator[tuple[str, FieldInfo]]:
    """Those of the class itself: what every service has is listed once."""
    shared = {} if settings is ServiceSettings else ServiceSettings.model_fields
    return ((name, field) for name, field in settings.model_fields.items() if name not in shared)


def page() -> str:
    parts = [_HEAD]
    for title, settings in SECTIONS.items():
        parts.append(f"\n## {title}\n\n{_TABLE}")
        for name, field in own_fields(settings):
            names = " or ".join(f"`{variable}`" for variable in variables(settings, name))
            cells = [names, _default(field), _values(field), field.description or name.replace("_", " ")]
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(parts)


def _default(field: FieldInfo) -> str:
    value = field.default
    if field.default_factory is not None:
        return "by the CPUs"
    if value is None or value == ():
        return "–"
    if isinstance(value, Path):
        value = value.relative_to(ROOT) if value.is_absolute() else value
    if isinstance(value, list):
        value = ",".join(value)
    if isinstance(value, bool):
        value = int(value)
    if isinstance(value, int) and value >= 1024**2 and value % 1024**2 == 0:
        return f"`{value}` ({value // 1024**2} MiB)"
    return f"`{value}`"


def _values(field: FieldInfo) -> str:
    bounds = []
    for rule in field.metadata:
        if type(rule) in _BOUNDS:
            attribute, words = _BOUNDS[type(rule)]
            bounds.append(f"{words} {getattr(rule, attribute)}")
    return ", ".join([_type(field.annotation), *bounds])


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return ", ".join(_type(part) for part in get_args(annotation) if part is not NoneType)
    if get_origin(annotation) in (list, tuple):
        return "a list, comma-separated"
    words = {int: "whole number", float: "number", bool: "0 or 1", Path: "path", str: "text"}
    return words.get(annotation, "secret")


def main() -> None:
    PAGE.write_text(page())
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main()

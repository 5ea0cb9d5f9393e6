"""`python -m tools.api_reference` writes docs/api.md from docs/openapi/*.json."""

import json
from typing import Any

from tools.openapi import FOLDER
from tools.stack import ROOT

PAGE = ROOT / "docs" / "api.md"
PORTS = {"insightface": 10001, "embedder-proxy": 10002, "predictor": 10003, "trainer": 10004}
_HEAD = """# API

This page is generated from [openapi/](openapi/) by `make reference`. Those documents have all schemas and an
example for each route; a running service shows them at `/docs`. Errors are RFC 9457 problem documents. For
the meaning of the answers see [serving.md](serving.md), [proxy.md](proxy.md), [training.md](training.md) and
[datasets.md](datasets.md).
"""


def page() -> str:
    """Return the page as Markdown."""
    return _HEAD + "".join(_service(name) for name in PORTS)


def _service(name: str) -> str:
    document = json.loads((FOLDER / f"{name}.json").read_text())
    lines = [f"\n## {name}, :{PORTS[name]}\n"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            lines += _operation(f"{method.upper()} {path}", operation)
    return "\n".join(lines) + "\n"


def _operation(route: str, operation: dict[str, Any]) -> list[str]:
    lines = [f"### `{route}`\n", _one_line(operation.get("description") or operation["summary"]) + "\n"]
    parameters = operation.get("parameters", [])
    if parameters:
        lines += ["| parameter | in | type | default | meaning |", "| --- | --- | --- | --- | --- |"]
        lines += [_parameter(parameter) for parameter in parameters]
        lines.append("")
    body = operation.get("requestBody", {"content": {}})["content"]
    if body:
        lines.append(
            "Request body: " + ", ".join(f"`{media}`{_schema(item)}" for media, item in body.items()) + ".\n"
        )
    for status, answer in operation["responses"].items():
        if status.startswith("2"):
            content = answer.get("content", {})
            media = ", ".join(f"`{name}`{_schema(item)}" for name, item in content.items())
            lines.append(f"Response: {status}" + (f", {media}" if media else "") + ".\n")
    return lines


def _parameter(parameter: dict[str, Any]) -> str:
    schema = parameter.get("schema", {})
    default = "required" if parameter.get("required") else schema.get("default", "–")
    meaning = _one_line(parameter.get("description") or schema.get("description") or "")
    cells = [f"`{parameter['name']}`", parameter["in"], _type(schema), str(default), meaning]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "$ref" in schema:
        return f"`{schema['$ref'].rsplit('/', 1)[1]}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    return str(schema.get("type", "any"))


def _schema(media: dict[str, Any]) -> str:
    reference = media.get("schema", {}).get("$ref")
    return f" (`{reference.rsplit('/', 1)[1]}`)" if reference else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())


def main() -> None:
    PAGE.write_text(page())
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main()

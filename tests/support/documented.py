"""The commands that README and the documentation tell users to type."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.M | re.S)
_COMMENT = re.compile(r"\s+# .*$", re.M)


@dataclass(frozen=True)
class Command:
    page: str
    text: str  # as it stands there, without the comment behind it


def documented_commands() -> list[Command]:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [
        Command(str(page.relative_to(ROOT)), text)
        for page in pages
        for block in _BLOCK.findall(page.read_text())
        for text in _commands(block)
    ]


def readme_code(language: str) -> str:
    """Return the one example that README has in this language."""
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    return str(block)


def _commands(block: str) -> list[str]:
    """Return one command per line; a backslash at its end or a here-document continues it."""
    found: list[str] = []
    lines = iter(_COMMENT.sub("", block).splitlines())
    for line in lines:
        text = line
        while text.endswith("\\"):
            text += "\n" + next(lines).lstrip()
        if here := re.search(r"<<(\w+)$", line):
            while not text.endswith(f"\n{here[1]}"):
                text += "\n" + next(lines)
        if text.strip():
            found.append(text)
    return found

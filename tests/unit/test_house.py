"""Rules of the house: short files, links that lead somewhere, settings that are read."""

import ast
import inspect
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
from agegender.environment import EnvironmentSettings

from tools import configuration

ROOT = Path(__file__).parents[2]
MOST_LINES = 400
# Folders that a path in the docs may be relative to, beside the page's own.
BASES = ("", "docs", "shared", "services", "services/predictor", "services/trainer", "services/insightface")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|md|sh|yml|yaml|json|js|svg))`")
HEADING = re.compile(r"^#+ (.+)$", re.M)


@cache
def tracked() -> list[Path]:
    """Files of git, those not yet added too."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]


PAGES = [path for path in tracked() if path.suffix == ".md"]


@pytest.mark.parametrize("suffix", [".py", ".js", ".sh", ".css", ".html"])
def test_no_file_is_long(suffix: str) -> None:
    lines = {path: len(path.read_text().splitlines()) for path in tracked() if path.suffix == suffix}
    assert lines
    assert not {str(path.relative_to(ROOT)): count for path, count in lines.items() if count > MOST_LINES}


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    return {
        re.sub(r"[^\w -]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading)).strip().lower().replace(" ", "-")
        for heading in HEADING.findall(page.read_text())
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if re.match(r"[a-z]+:", target):  # another site's
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert there.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_named_is_there(page: Path) -> None:
    made = (
        "data/",
        ".run/",
        "benchmarks/results",
        "experiments/",
        "models/",
        "part1/",
        "train/",
        "val/",
        "faces/",
        "aligned/",
    )
    for name in PATH.findall(page.read_text()):
        if "…" in name or name.startswith(made):
            continue
        places = [page.parent / name, *(ROOT / base / name for base in BASES)]
        places += [ROOT / "services/trainer/trainer" / name]
        assert any(place.exists() for place in places), name


def test_every_page_of_the_documentation_is_listed() -> None:
    listed = (ROOT / "docs" / "README.md").read_text()
    pages = [page for page in PAGES if page.parent == ROOT / "docs" and page.name != "README.md"]
    assert not [page.name for page in pages if f"({page.name})" not in listed]


def test_example_table_in_the_readme_is_that_of_the_report_it_names() -> None:
    """Its first table."""
    report = (ROOT / "docs" / "results" / "human-utkface-all-age-faces.md").read_text()
    table = report[report.index("| left-out fold") :].split("\n\n")[0]
    assert table in (ROOT / "README.md").read_text()


@cache
def attributes_read() -> set[str]:
    """Names that any code of the services and the tools reads as an attribute, other than `self.NAME = …`."""
    names: set[str] = set()
    for path in tracked():
        if path.suffix != ".py" or path.is_relative_to(ROOT / "tests") or path.name == "settings.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                names.add(node.attr)
    return names


@pytest.mark.parametrize("title", configuration.SECTIONS)
def test_every_setting_is_read(title: str) -> None:
    settings: type[EnvironmentSettings] = configuration.SECTIONS[title]
    within = inspect.getsource(inspect.getmodule(settings) or settings)
    for name, _ in configuration.own_fields(settings):
        assert name in attributes_read() or f"self.{name}" in within, f"nothing reads {name}"

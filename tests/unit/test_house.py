"""Rules of the house: short files, links that lead somewhere, settings that are read."""

import ast
import inspect
import re
import subprocess
from functools import cache
from pathlib import Path
from statistics import median

import pytest
from agegender.environment import EnvironmentSettings

from tools import configuration
from tools.house import SMALL, House, prose

ROOT = Path(__file__).parents[2]
MOST_LINES = 400
# Before adding one, look for a module that is one concept with it, or merge two others. Their names must lead
# a newcomer to each thing.
MOST_MODULES = 150
TYPICAL_LINES = 100  # median per module; it was 76 when each function had a module of its own
# Modules of fewer than 60 lines with one importer that stay modules, and why.
SEAMS: dict[str, str] = {}
# Packages to which a module is added for each new thing, however short it is.
EXTENSIBLE = ("embedder.packs", "trainer.datasets.formats", "trainer.routes")
# Folders that a path in the docs may be relative to, beside the page's own.
BASES = ("", "docs", "shared", "services", "services/predictor", "services/trainer", "services/insightface")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|md|sh|yml|yaml|json|js|svg))`")
COMMAND = re.compile(r"python -m ([a-z_]+(?:\.[a-z_]+)*)")
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
    """Return the anchors that GitHub gives to headings."""
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
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert linked.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(linked), target


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


def test_example_table_in_the_readme_has_the_numbers_of_the_report_it_names() -> None:
    """The words of the header may change between the release that wrote the report and README's."""
    report = (ROOT / "docs" / "results" / "human-3-utkface-all-age-faces.md").read_text()
    _, _, *rows = report[report.index("\n| ") + 1 :].split("\n\n")[0].splitlines()
    assert len(rows) == 6
    assert "\n".join(rows) in (ROOT / "README.md").read_text()


def test_every_module_that_is_documented_as_a_command_runs_as_one() -> None:
    """A module that lacks the call of its `main` ends at once, without a word."""
    named = {
        name
        for path in tracked()
        if path.suffix in (".md", ".py") or path.name in ("Makefile", "docker-compose.yml")
        for name in COMMAND.findall(path.read_text())
    }
    modules = {name: module_file(name) for name in named}
    own = {name: path for name, path in modules.items() if path is not None}
    assert {"tools.fit_covers", "benchmarks.accuracy", "trainer.worker", "embedder"} <= set(own)
    modules_with_main = [(name, path) for name, path in own.items() if path.name != "__main__.py"]
    assert not [
        name for name, path in modules_with_main if '\nif __name__ == "__main__":' not in path.read_text()
    ]


def module_file(name: str) -> Path | None:
    """Return the file that `python -m NAME` runs; None if it is no module of this repository."""
    for base in ("", "shared", *(f"services/{path.name}" for path in (ROOT / "services").iterdir())):
        path = ROOT / base / name.replace(".", "/")
        if path.with_suffix(".py").is_file():
            return path.with_suffix(".py")
        if (path / "__main__.py").is_file():
            return path / "__main__.py"
    return None


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
    for name in [*(name for name, _ in configuration.own_fields(settings)), *settings.constants]:
        assert name in attributes_read() or f"self.{name}" in within, f"nothing reads {name}"


@cache
def house() -> House:
    return House(ROOT)


def test_no_package_imports_itself_through_another() -> None:
    assert house().package_cycles() == []
    assert house().module_cycles() == []


def test_there_are_few_modules() -> None:
    assert len(house().modules) <= MOST_MODULES


def test_a_typical_module_is_a_concept_and_not_one_function() -> None:
    assert median(module.lines for module in house().modules) >= TYPICAL_LINES


def test_a_small_module_with_one_importer_is_a_seam() -> None:
    small = {name for name in house().small_modules() if name.rpartition(".")[0] not in EXTENSIBLE}
    assert small == set(SEAMS), f"merge them, or give a reason why fewer than {SMALL} lines are enough"


def write(root: Path, **modules: str) -> House:
    """A made-up checkout: module name, with `__` for dots, and text."""
    for name, text in modules.items():
        path = root / "shared" / Path(*name.split("__")).with_suffix(".py")
        for package in list(path.relative_to(root / "shared").parents)[:-1]:
            (root / "shared" / package).mkdir(parents=True, exist_ok=True)
            (root / "shared" / package / "__init__.py").touch()
        path.write_text(text)
    return House(root)


def test_cycles_and_small_modules_of_a_made_up_checkout_are_found(tmp_path: Path) -> None:
    found = write(
        tmp_path,
        pack__app="from pack.a import x",
        pack__a__x="def f():\n    import pack.b.y",
        pack__b__y="from pack.a.z import name",
        pack__a__z="from pack import app",
    )
    assert found.package_cycles() == [["pack.a", "pack.app", "pack.b"]]
    assert found.module_cycles() == [["pack.a.x", "pack.a.z", "pack.app", "pack.b.y"]]
    assert found.small_modules() == ["pack.a.x", "pack.a.z", "pack.app", "pack.b.y"]
    assert len(found.modules) == 4


def test_duplicates_of_a_made_up_checkout_are_found(tmp_path: Path) -> None:
    block = "".join(f"value_{number} = {number}\n" for number in range(7))
    found = write(
        tmp_path, pack__a=f'"""A."""\n\n{block}', pack__b=f"import os\n\nfirst = 1\n{block}", pack__c="x = 1"
    )
    assert found.duplicates() == [("pack.a", 3, 7), ("pack.b", 4, 7)]


def test_prose_leaves_out_code_and_tables() -> None:
    page = (
        "# Title\n\nOne [link](x.md) of 4.25 years. Two\nlines:\n\n```\ncode.\n```\n\n| a | b |\n\n- item\n"
    )
    assert prose(page) == "One link of 425 years. Two lines.\nitem."

"""`python -m tools.house [PATH]`: measure the structure of a checkout of this repository.

Prints the size of its packages, modules that may be too small, import cycles, settings, the length of
sentences in the docs, and duplicated code. The source is parsed, never imported, so older checkouts can be
measured too:

    git worktree add /tmp/old cf0d00a && python -m tools.house /tmp/old

Production code is shared/ and services/; `__init__.py` files are not counted as modules. Duplicated code is
counted as pylint's `duplicate-code` counts it (six lines; no comments, docstrings, imports or signatures),
but here, because pylint would be a large dependency for one number.
"""

import argparse
import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, median

SMALL = 60  # lines
BLOCK = 6  # lines of a duplicate
_GENERATED = re.compile(r"\bgenerated (by|from)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Module:
    """A production module. imports : names of the modules that it imports, within functions too."""

    name: str
    path: Path
    text: str

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def package(self) -> str:
        """Return the first two parts of its name, or only the first for a top-level module."""
        parts = self.name.split(".")
        return ".".join(parts[:2]) if len(parts) > 2 or self.is_package else parts[0]

    @property
    def node(self) -> str:
        """Return its node in the graph of packages; a top-level module such as `trainer.app` is its own."""
        return ".".join(self.name.split(".")[:2])

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)


class House:
    """The production code of a checkout."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.all = {module.name: module for module in _read_modules(root)}
        self.imports = {name: self._imports_of(module) for name, module in self.all.items()}

    @property
    def modules(self) -> list[Module]:
        """Return the modules that count: all but `__init__.py`."""
        return [module for module in self.all.values() if not module.is_package]

    def importers(self) -> dict[str, set[str]]:
        """Return the importers of each module. Importing a name through a package counts for the package."""
        found: dict[str, set[str]] = {name: set() for name in self.all}
        for name, imported in self.imports.items():
            for other in imported:
                found[other].add(name)
        return found

    def small_modules(self) -> list[str]:
        """Return the modules of fewer than `SMALL` lines with exactly one importer."""
        importers = self.importers()
        return sorted(
            module.name
            for module in self.modules
            if module.lines < SMALL and len(importers[module.name]) == 1
        )

    def package_cycles(self) -> list[list[str]]:
        """Return the groups of packages that import each other."""
        graph: dict[str, set[str]] = defaultdict(set)
        for name, imported in self.imports.items():
            node = self.all[name].node
            graph[node] |= {self.all[other].node for other in imported} - {node}
        return _cycles(graph)

    def module_cycles(self) -> list[list[str]]:
        """Return the groups of modules that import each other, other than a package and its own modules."""
        return _cycles(
            {
                name: {other for other in imported if not self.all[other].is_package}
                for name, imported in self.imports.items()
                if not self.all[name].is_package
            }
        )

    def settings(self) -> list[str]:
        """Return the environment variables in docs/configuration.md, which is generated from the code.

        Deprecated names, and variables that only make and Compose read, are omitted.
        """
        page = (self.root / "docs" / "configuration.md").read_text(encoding="utf-8")
        sections = re.split(r"^## ", page, flags=re.MULTILINE)
        page = "".join(text for text in sections if not text.startswith(("Deprecated", "make and Compose")))
        return sorted(set(re.findall(r"^\| `([A-Z][A-Z0-9_]+)`", page, re.MULTILINE)))

    def duplicates(self) -> list[tuple[str, int, int]]:
        """Return places (module, first line, lines of code) of which each `BLOCK` lines exist elsewhere too.

        Blank lines, comments, docstrings, imports, signatures and generated modules are skipped.
        """
        places: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
        code = {module.name: _code(module) for module in self.modules if not _is_generated(module)}
        for name, lines in code.items():
            for start in range(len(lines) - BLOCK + 1):
                block = tuple(text for _, text in lines[start : start + BLOCK])
                places[block].append((name, start))
        repeated = sorted({place for found in places.values() if len(found) > 1 for place in found})
        runs: list[tuple[str, int, int]] = []
        for name, start in repeated:
            if runs and runs[-1][0] == name and runs[-1][1] + runs[-1][2] - BLOCK + 1 == start:
                runs[-1] = (name, runs[-1][1], runs[-1][2] + 1)
            else:
                runs.append((name, start, BLOCK))
        return [(name, code[name][start][0], length) for name, start, length in runs]

    def _imports_of(self, module: Module) -> set[str]:
        found: set[str] = set()
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    found.add(full if full in self.all else node.module)
        return {name for name in found if name in self.all and name != module.name}


def _read_modules(root: Path) -> Iterator[Module]:
    for pattern in ("shared/*/__init__.py", "services/*/*/__init__.py"):
        for top in sorted(root.glob(pattern)):
            for path in sorted(top.parent.rglob("*.py")):
                parts = path.relative_to(top.parent.parent).with_suffix("").parts
                name = ".".join(parts[:-1] if path.name == "__init__.py" else parts)
                yield Module(name, path, path.read_text(encoding="utf-8"))


def _cycles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one node (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return sorted(found)


def _is_generated(module: Module) -> bool:
    return _GENERATED.search("\n".join(module.text.splitlines()[:3])) is not None


def _code(module: Module) -> list[tuple[int, str]]:
    """Return the lines of code that `House.duplicates` compares, with their numbers."""
    skipped: set[int] = set()
    for node in ast.walk(module.tree):
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.stmt) and (is_docstring or isinstance(node, ast.Import | ast.ImportFrom)):
            skipped |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            skipped |= set(range(node.lineno, node.body[0].lineno))
    lines = ((number, line.strip()) for number, line in enumerate(module.text.splitlines(), 1))
    return [(number, line) for number, line in lines if line and line[0] != "#" and number not in skipped]


def prose(page: str) -> str:
    """Return the sentences of a Markdown page, without code, tables and headings."""
    page = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    page = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", page)
    page = re.sub(r"`[^`]*`", "code", page)
    blocks = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", page)
    sentences = []
    for block in blocks:
        text = re.sub(r"^\s*(?:[-*]|\d+\.) +", "", block.strip())
        if not text or text[0] in "#|<" or text.startswith("!"):
            continue
        text = re.sub(r"(?<=\w)[.](?=\w)", "", text)  # 4.25 and www.example.org end no sentence
        text = " ".join(re.sub(r"[*_>]", "", text).split())
        sentences.append(text if text[-1] in ".!?" else text.rstrip(":;,") + ".")
    return "\n".join(sentences)


def words_per_sentence(root: Path) -> dict[str, float]:
    """Return the mean number of words per sentence of README.md and of each page in docs/.

    Counted as by textstat, which itself cannot be installed here: its wheel has a top-level package `tests`
    (findings/textstat-installs-tests.sh).
    """
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    texts = {path.name: prose(path.read_text(encoding="utf-8")) for path in pages}
    return {
        name: len(text.split()) / max(1, len(re.findall(r"[.!?]+(?=\s|$)", text)))
        for name, text in texts.items()
        if text
    }


def report(root: Path) -> Iterator[str]:
    """Yield the lines of the report as Markdown."""
    house = House(root)
    packages: dict[str, list[int]] = defaultdict(list)
    for module in house.modules:
        packages[module.package].append(module.lines)
    importers = house.importers()
    small, packaged, cyclic = house.small_modules(), house.package_cycles(), house.module_cycles()
    duplicates, sentences = house.duplicates(), words_per_sentence(root)
    lines = [module.lines for module in house.modules]
    longest = sorted(sentences.items(), key=lambda item: -item[1])[:3]
    yield from ("| measure | value |", "| --- | ---: |")
    yield f"| production modules | {len(lines)} |"
    yield f"| lines of code, median per module | {median(lines):.0f} |"
    yield f"| lines of code, all modules | {sum(lines)} |"
    yield f"| modules with exactly one importer | {sum(len(importers[m.name]) == 1 for m in house.modules)} |"
    yield f"| … of these with fewer than {SMALL} lines | {len(small)} |"
    yield f"| package cycles | {len(packaged)} |"
    yield f"| module cycles | {len(cyclic)} |"
    yield f"| settings (environment variables) | {len(house.settings())} |"
    yield f"| words per sentence, mean of README and docs | {mean(sentences.values()):.1f} |"
    yield f"| duplicated blocks of at least {BLOCK} lines, places | {len(duplicates)} |"
    yield f"| duplicated blocks, lines | {sum(length for _, _, length in duplicates)} |"
    yield from ("", "| package | modules | lines | median |", "| --- | ---: | ---: | ---: |")
    for package, sizes in sorted(packages.items()):
        yield f"| {package} | {len(sizes)} | {sum(sizes)} | {median(sizes):.0f} |"
    yield from ("", "Longest sentences: " + ", ".join(f"{name} {words:.1f}" for name, words in longest) + ".")
    for title, found in (
        ("Package cycles", [" ↔ ".join(group) for group in packaged]),
        ("Module cycles", [" ↔ ".join(group) for group in cyclic]),
        (f"Modules of fewer than {SMALL} lines with one importer", small),
        ("Duplicated blocks", [f"{name}:{line} ({length} lines)" for name, line, length in duplicates]),
    ):
        if found:
            yield from ("", f"{title}:", "", *(f"- {item}" for item in found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure the structure of a checkout of this repository.")
    parser.add_argument("path", nargs="?", type=Path, default=Path(__file__).parents[1])
    sys.stdout.writelines(f"{line}\n" for line in report(parser.parse_args().path))

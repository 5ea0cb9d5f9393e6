"""Check the English of the documentation, docstrings, comments and messages against the project's word list.

`python -m tools.prose` fails on a hit in `CLEAN_PAGES` or `CLEAN_CODE` and counts the hits elsewhere.
Add a page or a folder to these constants once it has none. With paths as arguments, check these files.
Code in backticks, code blocks and link targets are not prose.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).parents[1]
CLEAN_PAGES: tuple[str, ...] = (
    "*.md",
    "docs/*.md",
    "docs/decisions/*.md",
    "docs/results/*.md",
    "findings/*.md",
)
CLEAN_CODE: tuple[str, ...] = (
    "benchmarks/**/*.py",
    "services/**/*.py",
    "shared/**/*.py",
    "tests/**/*.py",
    "tools/*.py",
)
QUOTES_THE_WORDS = ("tools/prose.py", "tests/unit/test_prose.py")
PAGES = (*CLEAN_PAGES, "benchmarks/*.md")
CODE = ("shared/**/*.py", "services/**/*.py", "tools/**/*.py", "benchmarks/**/*.py", "tests/**/*.py")
LAY_PAGES = ("README.md", "docs/newcomer.md", "docs/quickstart.md")  # "picture" is welcome there
MAX_WORDS_PER_SENTENCE = 20  # average over a page

# Pattern, and what to write instead.
WORDS = {
    r"told": "reported, logged, returned",
    r"tells": "returns, reports, states",
    r"says": "reports, states",
    r"wanted": "requested, required",
    r"chosen": "selected",
    r"anew": "again, from scratch",
    r"pictures?": "image",
    r"left[- ]out": "held-out (fold), omitted",
    r"commonest class": "majority-class baseline",
    r"head start": "warm start",
    r"held for dead": "presumed dead",
    r"(?:taken|takes|take) (?:in|out) again": "readmitted",
    r"taken out": "ejected, removed",
    r"goes on|go on|went on": "continues, resumes",
    r"slip of the pen": "typo",
    r"(?:eight|nine|three) (?:\w+ )?(?:in|out of) (?:ten|five|four)": "a percentage",
    r"widening": "interval scale",
    r"rooms": "services",
    r"plates?": "label box",
}
NAMES = ("told", "wanted", "chosen", "said", "there")  # of variables: they describe no value
HEADLESS = re.compile(r"(?:What|Of|That|The same|Whether|Who|Whose|Where|As|So|Such|How)\b")
# Legitimate uses; removed from the text before the check.
ALLOWED = (r"licen[cs]e plates?",)

_RULES = {  # a phrase may continue on the next line
    re.compile(rf"\b(?:{pattern})\b".replace(" ", r"\s+"), re.I): advice for pattern, advice in WORDS.items()
}
_ALLOWED = re.compile("|".join(ALLOWED), re.I)
_NOT_PROSE = re.compile(r"^```.*?^```|`+[^`]+`+|\]\([^)]*\)|<!--.*?-->|https?://\S+", re.M | re.S)
_PARAGRAPH = re.compile(r"^(?!\s*(?:\||#|$)).+(?:\n(?!\s*(?:\||#|[-*] |\d+\. |$)).+)*", re.M)
_SENTENCE = re.compile(r"(?<=[.!?:])[*)]*\s+(?=[*(]*[A-Z`])")


@dataclass(frozen=True)
class Hit:
    line: int
    found: str
    advice: str


def _blanks(found: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", found[0])


def check_text(text: str, first_line: int = 1, lay: bool = False) -> Iterator[Hit]:
    """Yield the words of `text` that the list rejects."""
    prose = _ALLOWED.sub(_blanks, _NOT_PROSE.sub(_blanks, text))  # offsets and lines stay
    for pattern, advice in _RULES.items():
        for found in pattern.finditer(prose):
            if not (lay and found[0].lower().startswith("picture")):
                yield Hit(first_line + prose.count("\n", 0, found.start()), found[0], advice)


def words_per_sentence(page: str) -> float:
    """Return the average length of the sentences outside tables, headings and code blocks, in words."""
    text = re.sub(r"^```.*?^```|<!--.*?-->|^ *(?:[-*]|\d+\.) ", "\n", page, flags=re.M | re.S)
    sentences = [sentence for block in _PARAGRAPH.findall(text) for sentence in _SENTENCE.split(block)]
    return mean([len(sentence.split()) for sentence in sentences] or [0])


def check_page(text: str, lay: bool = False) -> Iterator[Hit]:
    yield from check_text(text, lay=lay)
    if (average := words_per_sentence(text)) > MAX_WORDS_PER_SENTENCE:
        yield Hit(1, f"{average:.1f} words per sentence", f"at most {MAX_WORDS_PER_SENTENCE} on average")


def check_code(source: str) -> Iterator[Hit]:
    """Check names, comments, docstrings and strings with a blank; docstrings start with a verb."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield from check_text(node.value, node.lineno)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node) or ""
            if found := HEADLESS.match(docstring):
                yield Hit(
                    node.body[0].lineno, f"{found[0]} …", "start the docstring with a verb in the imperative"
                )
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from check_text(token.string, token.start[0])
        elif token.type == tokenize.NAME and token.string in NAMES:
            yield Hit(token.start[0], token.string, "a name for the value: message, options, existing")


def check_file(path: Path) -> list[Hit]:
    text, name = path.read_text(), str(path.relative_to(ROOT))
    hits = check_code(text) if path.suffix == ".py" else check_page(text, lay=name in LAY_PAGES)
    return sorted(hits, key=lambda hit: hit.line)


def files(patterns: tuple[str, ...]) -> list[Path]:
    found = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    return sorted(found - {ROOT / name for name in QUOTES_THE_WORDS})


def main(arguments: list[str]) -> int:
    """Print the hits and return the exit status."""
    selected = [Path(argument).resolve() for argument in arguments]
    clean = selected or files(CLEAN_PAGES + CLEAN_CODE)
    hits = [(path, hit) for path in clean for hit in check_file(path)]
    for path, hit in hits:
        print(f"{path.relative_to(ROOT)}:{hit.line}: {hit.found!r}: write {hit.advice}")
    if not selected:
        rest = [path for path in files(PAGES + CODE) if path not in clean]
        remaining = sum(len(check_file(path)) for path in rest)
        print(
            f"prose: {len(hits)} hits in {len(clean)} clean files; {remaining} remain in {len(rest)} others"
        )
    return 1 if hits else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

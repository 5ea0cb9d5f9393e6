"""Check the English of documentation, code and web pages against the project's word list.

`python -m tools.prose` fails on a hit in any Markdown, Python, HTML or JavaScript file of the repository;
with paths as arguments, in these files.
Code in backticks, code blocks and link targets are not prose.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).parents[1]
QUOTES_THE_WORDS = ("tools/prose.py", "tests/unit/test_prose.py")
SUFFIXES = (".md", ".py", ".html", ".js")
# "picture" is welcome there, and on web pages.
LAY_PAGES = (
    "README.md",
    "docs/newcomer.md",
    "docs/quickstart.md",
)
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
_NAME_ADVICE = "a name for the value: message, options, existing"
HEADLESS = re.compile(r"(?:What|Of|That|The same|Whether|Who|Whose|Where|As|So|Such|How)\b")
# Legitimate uses; removed from the text before the check.
ALLOWED = (r"licen[cs]e plates?", r"still[- ]pictures?")  # the latter in the specification of AV1

_RULES = {  # a phrase may continue on the next line
    re.compile(rf"\b(?:{pattern})\b".replace(" ", r"\s+"), re.I): advice for pattern, advice in WORDS.items()
}
_ALLOWED = re.compile("|".join(ALLOWED), re.I)
_NOT_PROSE = re.compile(r"^```.*?^```|`+[^`]+`+|\]\([^)]*\)|<!--.*?-->|https?://\S+", re.M | re.S)
_PARAGRAPH = re.compile(r"^(?!\s*(?:\||#|$)).+(?:\n(?!\s*(?:\||#|[-*] |\d+\. |$)).+)*", re.M)
_SENTENCE = re.compile(r"(?<=[.!?:])[*)]*\s+(?=[*(]*[A-Z`])")


_SHOWN = ("alt", "aria-label", "content", "placeholder", "title")  # attributes of HTML
_JS = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/)|(?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`)"""
    r"""|(?P<name>[A-Za-z_$][\w$]*)""",
    re.S,
)
_INSERTED = re.compile(r"\$\{[^}]*\}")  # expression in a template


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
            yield Hit(token.start[0], token.string, _NAME_ADVICE)


class _Page(HTMLParser):
    """Collect the texts of a page with their lines, and those of attributes that browsers show."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[tuple[int, str]] = []
        self._hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden = tag in ("script", "style")
        self.texts += [(self.getpos()[0], value) for name, value in attrs if value and name in _SHOWN]

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.texts.append((self.getpos()[0], data))


def check_html(source: str) -> Iterator[Hit]:
    """Check what a browser shows of a page."""
    page = _Page()
    page.feed(source)
    for line, text in page.texts:
        yield from check_text(text, line, lay=True)


def check_javascript(source: str) -> Iterator[Hit]:
    """Check comments, strings with a blank, and names."""
    for found in _JS.finditer(source):
        line = 1 + source.count("\n", 0, found.start())
        match found.lastgroup:
            case "comment":
                yield from check_text(found[0], line, lay=True)
            case "text" if " " in found[0]:
                yield from check_text(_INSERTED.sub(_blanks, found[0][1:-1]), line, lay=True)
            case "name" if found[0] in NAMES:
                yield Hit(line, found[0], _NAME_ADVICE)


def check_file(path: Path) -> list[Hit]:
    text = path.read_text()
    match path.suffix:
        case ".py":
            hits = check_code(text)
        case ".html":
            hits = check_html(text)
        case ".js":
            hits = check_javascript(text)
        case _:
            hits = check_page(text, lay=str(path.relative_to(ROOT)) in LAY_PAGES)
    return sorted(hits, key=lambda hit: hit.line)


def files() -> list[Path]:
    """Return the files of the repository to check, those not yet added to git too."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout  # noqa: S603
    found = [ROOT / name for name in listed.splitlines() if name not in QUOTES_THE_WORDS]
    found = [path for path in found if not path.name.endswith(".min.js")]  # another project's
    return sorted(path for path in found if path.suffix in SUFFIXES and path.is_file())


def main(arguments: list[str]) -> int:
    """Print the hits and return the exit status."""
    selected = [Path(argument).resolve() for argument in arguments] or files()
    hits = [(path, hit) for path in selected for hit in check_file(path)]
    for path, hit in hits:
        print(f"{path.relative_to(ROOT)}:{hit.line}: {hit.found!r}: write {hit.advice}")
    print(f"prose: {len(hits)} hits in {len(selected)} files")
    return 1 if hits else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The word list of `make prose`."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools import prose

ROOT = Path(__file__).parents[2]


def found(text: str, lay: bool = False) -> list[str]:
    return [hit.found for hit in prose.check_page(text, lay=lay)]


@pytest.mark.parametrize(
    "words",
    [
        "The user is told why.",
        "The wanted options.",
        "The chosen head.",
        "A head start for the fold.",
        "The left-out fold is\ntested.",
        "Always the commonest class.",
        "A worker held for dead.",
        "commonest\nclass",
    ],
)
def test_words_of_the_list_are_found(words: str) -> None:
    assert len(found(words)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "The setting `wanted` of the wire format.",
        "A [link](pages/wanted.md).",
        "```sh\nagegender told\n```\nText.",
        "<!-- told: written by a command -->",
        "A template, an unwanted row, a license plate.",
        "An option ``wanted`` in a docstring.",
        "https://example.org/told",
    ],
)
def test_code_links_and_parts_of_words_are_not_prose(text: str) -> None:
    assert found(text) == []


def test_hit_names_its_line_and_what_to_write() -> None:
    (hit,) = prose.check_page("First line.\n\n`code`\nThe chosen head.\n")
    assert (hit.line, hit.found, hit.advice) == (4, "chosen", "selected")


def test_pages_for_lay_readers_may_use_picture() -> None:
    assert found("Send a picture.") == ["picture"]
    assert found("Send a picture.", lay=True) == []


def test_long_sentences_are_rejected_on_average_and_tables_do_not_count() -> None:
    short = "One two three four. " * 3 + "\n"
    long = " ".join(["word"] * 25) + ".\n"
    assert found(long) == ["25.0 words per sentence"]
    assert found(long + "\n" + short) == []
    assert found("| " + " ".join(["word"] * 60) + " |\n\n" + short) == []


def test_list_items_and_decimals_do_not_change_the_length_of_a_sentence() -> None:
    assert prose.words_per_sentence("- One two three\n- four five six 0.5 seven eight.\n") == pytest.approx(
        4.5
    )


def test_docstrings_comments_messages_and_names_are_checked_and_keys_are_not() -> None:
    source = '''
"""The chosen module."""
options = {"wanted": 1}  # what was told


def rejected(said: int) -> None:
    """Of the same kind."""
    raise ValueError(f"{options} is not wanted")
'''
    hits = sorted((hit.line, hit.found) for hit in prose.check_code(source))
    assert hits == [(2, "chosen"), (3, "told"), (6, "said"), (7, "Of …"), (8, "wanted")]


@pytest.mark.parametrize("start", ["What", "Of", "That", "The same", "Whether"])
def test_headless_docstrings_are_found(start: str) -> None:
    (hit,) = prose.check_code(f'def answer() -> None:\n    """{start} a caller may expect."""\n')
    assert (hit.line, hit.found) == (2, f"{start} …")


def test_docstrings_in_the_imperative_pass() -> None:
    assert not list(prose.check_code('"""Return the offset; thatched roofs are no match."""\n'))


def test_text_of_pages_is_checked_and_their_scripts_and_links_are_not() -> None:
    source = """<p>The chosen
head.</p>
<img alt="wanted: a face" src="wanted images.png"><script>"what was told"</script>
<p>A picture is fine here, and <code>x</code> was told.</p>"""
    hits = [(hit.line, hit.found) for hit in prose.check_html(source)]
    assert hits == [(1, "chosen"), (3, "wanted"), (4, "told")]


def test_comments_strings_and_names_of_scripts_are_checked_and_keys_are_not() -> None:
    source = """const said = {"wanted": 1};  // rooms
/* one
   told */
show(`all ${told(1)} are chosen`, 'it\\'s wanted');
"""
    hits = [(hit.line, hit.found) for hit in prose.check_javascript(source)]
    assert hits == [(1, "said"), (1, "rooms"), (3, "told"), (4, "chosen"), (4, "wanted")]


def test_the_repository_has_no_hit() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.prose"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_pages_scripts_code_and_documentation_are_checked() -> None:
    names = {str(path.relative_to(ROOT)) for path in prose.files()}
    page = "services/trainer/trainer/page"
    assert {"README.md", "tests/conftest.py", f"{page}/index.html", f"{page}/main.js"} <= names


def test_a_rejected_file_ends_with_status_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("The chosen head.\n")
    assert prose.main([str(page)]) == 1
    page.write_text("The selected head.\n")
    assert prose.main([str(page)]) == 0

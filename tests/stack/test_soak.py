"""`make soak` for a moment: overload is answered in time or refused in good form, and nothing grows."""

from pathlib import Path

import pytest

from benchmarks.soak.run import soak
from benchmarks.soak.verdict import BEGIN, END, write_into
from tests.support.fault_record import record
from tools.stack import ROOT


@pytest.mark.alone  # it measures what the machine can do
def test_overload_is_answered_or_refused_with_retry_after(tmp_path: Path) -> None:
    verdict = soak(12)
    record("soak", sent=len(verdict.answers), refused=verdict.refused, p99=round(verdict.p99, 1))
    assert not verdict.faults
    assert verdict.refused < len(verdict.answers) / 2
    assert verdict.experiments
    assert {answer.kind for answer in verdict.answers} >= {"one face", "six faces", "embeddings", "bad input"}

    document = tmp_path / "reliability.md"
    document.write_text((ROOT / "docs" / "reliability.md").read_text())
    write_into(document, verdict.markdown())
    page = document.read_text()
    assert page.split(BEGIN)[0] + page.split(END)[1] == without_table(ROOT / "docs" / "reliability.md")
    assert f"{len(verdict.answers):,} requests in 12 s" in page


def without_table(document: Path) -> str:
    content = document.read_text()
    return content.split(BEGIN)[0] + content.split(END)[1]

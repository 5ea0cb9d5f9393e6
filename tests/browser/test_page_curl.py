"""The line for curl that the predictor's page copies, run by a shell."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

NewPage = Callable[..., "Page"]


@pytest.mark.parametrize(
    "name",
    ["plain.png", "a,b.png", "a;type=text.png", 'a "quoted" one.png', "back\\slash.png", "it's \\\" one.png"],
)
def test_curl_line_sends_a_file_of_any_name(
    new_page: NewPage, astronaut: Path, tmp_path: Path, name: str
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl: apt-get install curl")
    shutil.copy(astronaut, tmp_path / name)
    line = new_page().evaluate(
        "(name) => import('/static/predict.js').then((one) => one.curlLine(name, '0.9'))", name
    )
    done = subprocess.run(
        ["sh", "-c", f"{line} --silent --show-error --noproxy '*'"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["images"][0]["faces"]) == 1

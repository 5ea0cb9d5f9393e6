"""Run the `agegender` command in this process."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from agegender_client.cli.app import main
from fastapi import Response

Run = Callable[..., tuple[int, str, str]]

# As the trainer answers.
SPACE = {"id": "human-2", "dimension": 1024}
EXPERIMENT = {
    "id": "20261101-120000-abc",
    "state": "finished",
    "created": "2026-11-01T12:00:00Z",
    "task": "age",
    "datasets": ["Adience"],
    "space": SPACE,
    "folds": [{"fold": 0, "state": "finished", "epoch": 7, "epochs": 30}],
}


def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **urls: str) -> Run:
    """Return a function that runs the command and returns exit code, standard output and standard error.

    urls : address of each service, by its name.
    """
    for service, url in urls.items():
        monkeypatch.setenv(f"AGEGENDER_{service.upper()}_URL", url)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["agegender", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    return run


def events(*states: dict[str, Any]) -> Callable[[], Response]:
    """Return a handler that sends each state as a server-sent event."""
    text = "".join(f"data: {json.dumps(state)}\n\n" for state in states)
    return lambda: Response(text, media_type="text/event-stream")

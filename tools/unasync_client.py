"""`python -m tools.unasync_client` writes the synchronous client from the asynchronous one."""

import subprocess
import sys
import tempfile
from pathlib import Path

from unasync import Rule, unasync_files  # type: ignore[import-untyped]

from tools.stack import ROOT

_CLIENT = ROOT / "shared" / "agegender_client"
# Source → generated module and its docstring.
MODULES = {
    _CLIENT / "asynchronous.py": (_CLIENT / "synchronous.py", "The blocking client."),
    _CLIENT / "async_transport.py": (_CLIENT / "transport.py", "Connections of the blocking client."),
}
# Names that unasync does not know. asyncio.to_thread becomes operator.call: the function is called at once.
# anyio.sleep becomes time.sleep.
_NAMES = {
    "AsyncClient": "Client",
    "AsyncTransport": "Transport",
    "async_transport": "transport",
    "AsyncRetrying": "Retrying",
    "aconnect_sse": "connect_sse",
    "aiter_sse": "iter_sse",
    "aread": "read",
    "aclose": "close",
    "anyio": "time",
    "asyncio": "operator",
    "to_thread": "call",
}
# unasync leaves docstrings as they are.
_DOCSTRINGS = {"async with AsyncClient()": "with Client()", "= await client.": "= client."}


def generated(source_path: Path) -> str:
    """Return the source of the synchronous module."""
    target, summary = MODULES[source_path]
    with tempfile.TemporaryDirectory() as folder:
        source, result = (Path(folder, kind, source_path.name) for kind in ("async", "sync"))
        source.parent.mkdir()
        source.write_text(source_path.read_text())
        unasync_files([str(source)], [Rule("/async/", "/sync/", _NAMES)])
        text = result.read_text()
    _, _, body = text.partition("\n")  # without the docstring of the module
    for old, new in _DOCSTRINGS.items():
        body = body.replace(old, new)
    header = f'"""{summary} Generated from {source_path.name} by `make reference`; do not edit."""'
    return _ruff(
        _ruff(f"{header}\n{body}", target, "check", "--fix", "--quiet", "--select", "I"), target, "format"
    )


def _ruff(text: str, target: Path, *command: str) -> str:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(target), "-"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return done.stdout


def main() -> None:
    for source, (target, _) in MODULES.items():
        target.write_text(generated(source))
        print(target.relative_to(ROOT))


if __name__ == "__main__":
    main()

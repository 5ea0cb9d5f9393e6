"""`python -m tools.unasync_client` writes the synchronous client from the asynchronous one."""

import subprocess
import sys
import tempfile
from pathlib import Path

from unasync import Rule, unasync_files  # type: ignore[import-untyped]

from tools.stack import ROOT

SOURCE = ROOT / "shared" / "agegender_client" / "asynchronous.py"
GENERATED = SOURCE.with_name("synchronous.py")
_HEADER = '"""The blocking client. Generated from asynchronous.py by `make reference`; do not edit."""'
# Names that unasync does not know. asyncio.to_thread becomes operator.call: the function is called at once.
_NAMES = {
    "AsyncClient": "Client",
    "AsyncRetrying": "Retrying",
    "aconnect_sse": "connect_sse",
    "aiter_sse": "iter_sse",
    "aread": "read",
    "aclose": "close",
    "asyncio": "operator",
    "to_thread": "call",
}
# unasync leaves docstrings as they are.
_DOCSTRINGS = {"async with AsyncClient()": "with Client()", "= await client.": "= client."}


def generated() -> str:
    """Return the source of the synchronous client."""
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "async", SOURCE.name), Path(folder, "sync", SOURCE.name)
        source.parent.mkdir()
        source.write_text(SOURCE.read_text())
        unasync_files([str(source)], [Rule("/async/", "/sync/", _NAMES)])
        text = result.read_text()
    _, _, body = text.partition("\n")  # without the docstring of the module
    for old, new in _DOCSTRINGS.items():
        body = body.replace(old, new)
    return _ruff(_ruff(f"{_HEADER}\n{body}", "check", "--fix", "--quiet", "--select", "I"), "format")


def _ruff(text: str, *command: str) -> str:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(GENERATED), "-"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return done.stdout


def main() -> None:
    GENERATED.write_text(generated())
    print(GENERATED.relative_to(ROOT))


if __name__ == "__main__":
    main()

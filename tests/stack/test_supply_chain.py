"""`make sbom` and `make audit`: what we are made of, and what is known against it."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from tools.sbom import SbomError, write_bom
from tools.stack import ROOT


def run(module: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_bill_of_materials_lists_what_is_installed(tmp_path: Path) -> None:
    done = run("tools.sbom", "--to", str(tmp_path), "--image", "age-gender/absent")
    assert "error: docker" in done.stderr or "No such file" in done.stderr
    bom = json.loads((tmp_path / "venv.cdx.json").read_text())
    versions = {component["name"]: component["version"] for component in bom["components"]}
    assert versions["numpy"] == np.__version__
    assert {"agegender", "torch", "onnxruntime", "pillow"} <= {name.lower() for name in versions}


def test_what_is_no_bill_of_materials_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(SbomError, match=r"CycloneDX 1\.6"):
        write_bom({"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [{}]}, tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()


class Osv(BaseHTTPRequestHandler):
    """Answers as OSV does: one weakness of numpy, none of others."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = asked["package"]["name"]
        weakness = {
            "id": "GHSA-made-up",
            "summary": "made up",
            "affected": [
                {
                    "package": {"name": name, "ecosystem": "PyPI"},
                    "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99"}]}],
                }
            ],
        }
        body = json.dumps({"vulns": [weakness]} if name == "numpy" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def osv() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Osv)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()


def test_audit_names_a_vulnerable_package_and_what_mends_it(osv: str) -> None:
    done = run("tools.audit", "--vulnerability-service", "osv", "--osv-url", osv)
    assert done.returncode == 1, done.stderr
    assert f"numpy {np.__version__}: GHSA-made-up, fixed in 99" in done.stdout
    assert "1 with known vulnerabilities" in done.stdout


def test_audit_without_its_data_states_that_nothing_is_known() -> None:
    done = run("tools.audit", "--vulnerability-service", "osv", "--osv-url", "http://127.0.0.1:9/")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "127.0.0.1" in done.stderr  # the address that did not answer
    assert "Traceback" not in done.stderr

"""Measured effects of faults, for docs/reliability.md: JSON lines in the file that `FAULTS_RECORD` names."""

import json
import os
from pathlib import Path
from typing import Any


def record(fault: str, **measured: Any) -> None:
    if (path := os.environ.get("FAULTS_RECORD")) is not None:
        with Path(path).open("a") as file:
            file.write(json.dumps({"fault": fault, **measured}) + "\n")

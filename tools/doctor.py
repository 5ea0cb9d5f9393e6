"""`make doctor`: what this machine has of what the project can use. Runs on any Python 3."""

import os
import shutil
import socket
import subprocess
import sys


def check(good: bool, what: str, otherwise: str) -> bool:
    print(f"  {'ok  ' if good else 'MISS'}  {what}" + ("" if good else f"\n        {otherwise}"))
    return good


def runs(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return False


def main() -> None:
    print("needed:")
    found = sys.version_info[:2] == (3, 11) or shutil.which("python3.11") is not None
    good = check(found, "Python 3.11", "install it, or set PYTHON to one: PYTHON=/path/python3.11 make setup")
    free = shutil.disk_usage(".").free / 1e9
    good &= check(free > 5, f"{free:.0f} GB of disk free", "about 5 GB are needed")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    good &= check(pages > 3, f"{pages:.0f} GB of memory", "about 3 GB are needed")
    taken = []
    for port in range(10001, 10006):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                taken.append(str(port))
    good &= check(
        not taken,
        "ports 10001 to 10005 are free",
        f"in use: {', '.join(taken)}. make down, or choose others: PREDICTOR_PORT=20003 make up",
    )
    print("of use:")
    check(runs("docker", "info"), "a Docker engine", "only docker compose and make compose-test need one")
    chromium = any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    check(chromium, "Chromium", "only the browser tests need it (Debian: apt install chromium)")
    check(shutil.which("nvidia-smi") is not None, "an NVIDIA GPU", "not needed")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

#!/usr/bin/env bash
# Makes .venv with all services in it, and fetches the `human` pack. A second run costs a second.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1m%s\033[0m\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

is_311() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }
find_python() {
  for python in "${PYTHON:-}" python3.11 python3 python; do
    if [ -n "$python" ] && command -v "$python" >/dev/null && is_311 "$python"; then
      command -v "$python"
      return
    fi
  done
  fail "Python 3.11 was not found. Install it (Debian: apt install python3.11 python3.11-venv) or set PYTHON."
}

wanted=$(cat constraints.txt requirements-dev.txt shared/pyproject.toml services/*/pyproject.toml tools/setup.sh | sha256sum)
if [ "$(cat .venv/.complete 2>/dev/null)" != "$wanted" ]; then
  python=$(find_python)
  say "1/3 making .venv with $("$python" --version)"
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
  say "2/3 installing packages (the first time about two minutes; torch is the largest)"
  pip install -q -c constraints.txt torch
  pip install -q -c constraints.txt -r requirements-dev.txt \
    -e "shared[images,web,cli]" -e services/insightface -e services/embedder-proxy \
    -e services/trainer -e services/predictor
  # It asks for opencv-python, which needs libGL; the headless build is installed above.
  pip install -q --no-deps -c constraints.txt insightface
  printf '%s' "$wanted" > .venv/.complete
fi
if [ ! -f data/packs/human/faceres-deep.onnx ]; then
  say "3/3 fetching the human pack (145 MB from npm, once)"
  .venv/bin/python -m embedder.fetch human --to data/packs/human
fi

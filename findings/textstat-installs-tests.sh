#!/usr/bin/env bash
# Library:  textstat 0.7.13 (PyPI), Python 3.11.
# Expected: installing a library for text statistics adds the package `textstat` and nothing else.
# Observed: the wheel (since 0.7.7) also installs its test suite as a top-level package `tests`. As a regular
#           package it hides a project's own folder `tests` without `__init__.py` (a namespace package), even if
#           that folder comes first on sys.path. The wheel of 0.7.6 cannot be imported. Saw:
#             before: tests.support.helper imported
#             after: ModuleNotFoundError: No module named 'tests.support'
#             0.7.6: ModuleNotFoundError: No module named 'textstat.backend'
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
mkdir -p "$dir/project/tests/support"
cd "$dir/project"
echo 'print("tests.support.helper imported")' > tests/support/helper.py
try() { { "$dir/venv/bin/python" -c "import $1" 2>&1 || true; } | tail -n 1; }
echo "before: $(try tests.support.helper)"
"$dir/venv/bin/pip" install -q textstat==0.7.13
after=$(try tests.support.helper)
echo "after: $after"
"$dir/venv/bin/pip" install -q textstat==0.7.6
older=$(try textstat)
echo "0.7.6: $older"
[[ $after == *"No module named"* && $older == *"No module named"* ]] || { echo "the behaviour has changed"; exit 1; }

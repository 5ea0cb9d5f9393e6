# The front door. Nothing beyond Python 3.11, make and the package registries' clients is needed.
.DEFAULT_GOAL := help
PY := .venv/bin/python
# Empty, whatever the shell has: every program and test process would compile each module again at its start.
export PYTHONDONTWRITEBYTECODE :=
PACKAGES := shared/agegender shared/agegender_service shared/agegender_client services/insightface/embedder services/embedder-proxy/embedder_proxy \
            services/trainer/trainer services/predictor/predictor tools benchmarks tests

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t16

setup:  ## make .venv and fetch the models (first time about three minutes)
	@tools/setup.sh

up: setup  ## start everything without Docker; Ctrl-C stops it
	@$(PY) -m tools.up

down:  ## stop what `make up` started
	@kill $$(cat .run/up/supervisord.pid 2>/dev/null) 2>/dev/null && echo stopped || echo "nothing runs"

demo: setup  ## predict, train five folds, promote, predict again
	@$(PY) -m tools.demo

# Two processes more than cores, at most five, since the tests of tests/stack wait for half of their time. These
# come first, so that the short ones fill the end.
BESIDE := -m pytest --numprocesses $(shell expr $$(getconf _NPROCESSORS_ONLN) + 2) --maxprocesses 5 --dist loadgroup --no-loadscope-reorder -m "not alone"

# Tests that are marked `alone` measure recovery or load: nothing runs beside them.
test: setup  ## every test that this machine can run; ends with what was skipped
	@mkdir -p .run && rm -f .run/skipped; export SKIPPED=.run/skipped; failed=0; \
	$(PY) $(BESIDE) $(PYTEST) tests/stack tests/browser tests/contract tests/unit || failed=1; \
	$(PY) -m pytest -m alone $(PYTEST) tests/stack || failed=1; \
	if [ -s .run/skipped ]; then echo "Skipped:"; sort .run/skipped; fi; exit $$failed

quick: setup  ## unit and contract tests nearest to what changed, in less than a minute
	@$(PY) -m tools.quick $(PYTEST)

lint: setup  ## ruff, spelling and word list, mypy --strict
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@$(MAKE) --no-print-directory prose
	@$(MAKE) --no-print-directory mypy

prose:  ## spelling (codespell) and the word list of tools/prose.py alone
	@.venv/bin/codespell $$(git ls-files '*.md' '*.py' '*.sh' '*.yml' Makefile)
	@$(PY) -m tools.prose

mypy:  ## mypy --strict alone
	@.venv/bin/mypy $(PACKAGES)

openapi: setup  ## renew docs/openapi after an interface changed on purpose
	@$(PY) -m tools.openapi

reference: setup  ## generate docs/configuration.md, docs/api.md and the blocking client from the code
	@$(PY) -m tools.unasync_client
	@$(PY) -m tools.configuration
	@$(PY) -m tools.api_reference

bench: setup  ## the table of benchmarks/README.md, and its plots
	@$(PY) -m benchmarks

soak: setup  ## ten minutes of mixed traffic at 1.5 times the capacity; SECONDS=120 for two
	@$(PY) -m benchmarks.soak --seconds $(or $(SECONDS),600)

compose-test: setup  ## build the images, start the system, use it (needs a Docker engine)
	@$(PY) -m pytest tests/compose

sbom: setup  ## what the environment and the images are made of, as CycloneDX, into .run/sbom
	@$(PY) -m tools.sbom

audit: setup  ## packages with known vulnerabilities (asks PyPI); AUDIT= pip-audit's own options
	@$(PY) -m tools.audit $(AUDIT)

doctor:  ## what this machine lacks, and how to get it
	@$${PYTHON:-python3} -m tools.doctor

clean:  ## delete what can be made again; data and models stay
	@! kill -0 $$(cat .run/up/supervisord.pid 2>/dev/null) 2>/dev/null || \
	 { echo "make up runs here, and works in .run: make down first"; exit 1; }
	rm -rf .venv .run .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: help setup up down demo test quick lint prose mypy openapi reference bench soak compose-test sbom audit doctor clean

# `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-pythons check format docs man screenshots bench audit packages bench-packages bench-peers bench-caches bench-providers bench-quotes bench-web clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create .venv with everything needed to run, test and measure

$(STAMP): pyproject.toml requirements/dev.txt
	@test -n "$(PYTHON)" || { echo "aragora-q needs Python 3.11 or newer, and PATH has none" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo "$(PYTHON) cannot create virtual environments: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[embedded,llm,web,top,eval,otel]' -r requirements/dev.txt
	@touch $@

demo: setup ## Run and show a whole debate on a private embedded server
	@$(BIN)/aragora-q demo

test: setup ## Run all tests on every server, topology and container
	$(BIN)/python -m pytest -n 2

test-fast: setup ## Run every quick test on one server, in three minutes
	$(BIN)/python -m pytest -q --backend any -m 'not (slow or container or network)' \
		tests/test_queue.py tests/unit tests/queue tests/security tests/redis tests/worker \
		tests/cli tests/executors tests/webhooks

test-pythons: setup ## Run unit, queue and TLS tests on every other Python that is found
	@$(BIN)/python -m tools.pythons

check: setup ## Lint, types, architecture and unit tests, in under a minute
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/unit

format: setup ## Format the code and apply ruff's fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## Generate the sample settings, docs/reference and the Redis users
	$(BIN)/python -m tools.gen_docs

man: setup ## Write man pages and shell completions to build/share
	$(BIN)/python -m tools.gen_docs --share build/share

screenshots: setup ## Take the pictures of the documentation: a run of the demo, and pages of the console
	$(BIN)/python -m tools.record_demo
	$(BIN)/python -m tools.screenshots --docs

bench: setup ## Measure speed and memory against a baseline; write benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks.run

audit: setup ## Check every installed package for known vulnerabilities
	@$(BIN)/python -m pip freeze --exclude-editable | $(BIN)/pip-audit --requirement /dev/stdin \
		--no-deps --disable-pip --strict --progress-spinner off $(ADVISORIES)

packages: setup ## Build wheel, sdist, one-file program, .deb, SBOMs and checksums in dist
	@if command -v dpkg-deb >/dev/null; then PIP="$(BIN)/python -m pip" deploy/debian/build dist >/dev/null; fi
	@PATH="$(CURDIR)/$(BIN):$$PATH" deploy/python/build dist >/dev/null
	@$(BIN)/python -m tools.sbom dist $(IMAGE)

bench-providers: setup ## Measure what a provider that takes no calls for 20 s costs a fleet
	$(BIN)/python -m benchmarks.providers

bench-caches: setup ## Measure how much of a debate's input comes from providers' prompt caches
	$(BIN)/python -m benchmarks.prompt_cache

bench-web: setup ## Measure a console with 500 event streams and 200 requests per second
	$(BIN)/python -m benchmarks.web

bench-peers: setup ## Compare with other queues, installed under build/peers; write the tables of docs/performance.md
	$(BIN)/python -m benchmarks.peers

bench-quotes: setup ## Measure how good quotes are after 0, 10, 100 and 1,000 debates
	$(BIN)/python -m benchmarks.quotes

bench-packages: packages ## Measure size and start time of the packages; write benchmarks/PACKAGES.md
	$(BIN)/python -m benchmarks.packages

clean: ## Remove everything that the other targets created
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage

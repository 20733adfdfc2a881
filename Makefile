# Every target says what it does: make help
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast check format docs picture bench audit packages starts clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)

help: ## This text
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with everything that running, testing and measuring needs

$(STAMP): pyproject.toml requirements/dev.txt
	@test -n "$(PYTHON)" || { echo "aragora-q needs Python 3.11 or newer; none was found on PATH" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[embedded,llm]' -r requirements/dev.txt
	@touch $@

demo: setup ## Run a whole debate on a private embedded server, and watch it
	@$(BIN)/aragora-q demo

test: setup ## Run all tests on every server, topology and container
	$(BIN)/python -m pytest

test-fast: setup ## Run most tests on one server in three minutes, without Docker or network
	$(BIN)/python -m pytest -q --backend any -m 'not (slow or container or network)'

check: setup ## Lint, types, architecture and unit tests, in under a minute
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/unit

format: setup ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## Write the generated documentation: sample settings, tables, commands, man pages, completions
	$(BIN)/python -m docs.generate

picture: setup ## Draw the README's pictures: a real run of the demo, a watched queue on its dashboard
	$(BIN)/python docs/picture.py
	$(BIN)/python -m docs.dashboard

bench: setup ## Measure speed and memory against a floor, and write bench/RESULTS.md
	$(BIN)/python bench/run.py

audit: setup ## Look for known vulnerabilities in every package that setup has installed
	@$(BIN)/python -m pip freeze --exclude-editable | $(BIN)/pip-audit --requirement /dev/stdin \
		--no-deps --disable-pip --strict --progress-spinner off $(ADVISORIES)

packages: setup ## Build wheel, sdist, one-file program, .deb, bills of materials and hashes into dist
	@if command -v dpkg-deb >/dev/null; then PIP="$(BIN)/python -m pip" deploy/debian/build dist >/dev/null; fi
	@PATH="$(CURDIR)/$(BIN):$$PATH" deploy/python/build dist >/dev/null
	@$(BIN)/python deploy/bills.py dist $(IMAGE)

starts: packages ## Measure sizes and cold starts of those packages, and write bench/PACKAGES.md
	$(BIN)/python bench/packages.py

clean: ## Remove what the other targets made
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage

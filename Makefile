# Commands for a checkout. Every target sets up what it needs: an environment in .venv (PYTHON=python3.13
# chooses another interpreter) and, for `make test` alone, the Debian packages in TEST_PACKAGES.
# Each step says what it installs before it does.

ifndef PYTHON
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
endif
ifeq ($(PYTHON),)
PYTHON := python3
endif

# The names of the stamps hold the interpreter's version and the checkout's place: another Python, a moved
# or copied checkout, or newer requirements each rebuild the environment.
VERSION := $(shell $(PYTHON) -c 'import platform; print(platform.python_version())' 2>/dev/null)
PLACE := $(shell pwd | cksum | cut -d' ' -f1)
RUNTIME := .venv/.runtime-$(VERSION)-$(PLACE)
DEV := .venv/.dev-$(VERSION)-$(PLACE)
DOCS := .venv/.docs-$(VERSION)-$(PLACE)

# The tests start hundreds of processes, each of which would compile the package for two seconds of CPU.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install -qq
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses=4
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --no-strip-extras \
  --python-version 3.11 $(if $(UPGRADE),--upgrade) pyproject.toml

# The commands that the tests run and no Python package brings, each with its Debian package.
TEST_PACKAGES := systemd-analyze=systemd node=nodejs npm=npm openssl=openssl curl=curl faketime=faketime pgbouncer=pgbouncer \
  debootstrap=debootstrap chromium=chromium systemd-nspawn=systemd-container groff=groff \
  prometheus=prometheus nginx=nginx caddy=caddy rails=ruby-rails puma=puma go=golang-go php=php-cli \
  /usr/share/php/Illuminate/autoload.php=php-laravel-framework

# The tests start some hundred daemons; without compiled files each would compile all of bridge.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-servers test-receivers test-fast lint format simulate simulate-real mutate bench docs screenshots dist deb lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | while IFS="$$(printf '\t')" read -r name does; do \
	  printf '  make %-14s %s\n' "$$name" "$$does"; done
	@echo '  (PYTHON=python3.13 after any of them chooses the interpreter)'

demo: $(RUNTIME) ## the main job against four fake providers, start to end, in under a minute
	@$(BIN)/runbridge demo

test: $(DEV) ## every test, on SQLite and on a real PostgreSQL; installs what they need (ARGS="-k name" goes to pytest)
	@sh .ci/have-commands $(TEST_PACKAGES)
	@echo 'Tests of the Node receiver fetch the npm package "standardwebhooks" into a temporary folder.'
	$(PYTEST) $(ARGS)

test-servers: $(DEV) ## real Buildbot, Flower, Prefect, Dagster and Airflow, from PyPI into .venv/servers: some 500 MB, ten minutes
	$(BIN)/python -m pytest -m "slow or servers" tests/acceptance/test_real_servers.py $(ARGS)

test-receivers: $(DEV) ## the manual's receivers for Next.js and Spring, from npm and Maven Central: some 300 MB, three minutes
	@sh .ci/have-commands node=nodejs npm=npm mvn=maven javac=default-jdk-headless
	$(BIN)/python -m pytest -m servers tests/readme/test_snippets.py $(ARGS)

test-fast: $(DEV) ## the tests that are not marked slow: an answer within a minute
	$(PYTEST) --dist worksteal -m "not slow and not servers" --hypothesis-profile=fast $(ARGS)

lint: $(DEV) ## ruff and mypy; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV) ## let ruff repair what it can
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

SEEDS ?= 1-200
simulate: $(DEV) ## lives of the daemon in virtual time, with faults and crashes (SEEDS=1-5000; ARGS="--mutant NAME")
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) $(ARGS)

KILLS ?= 5000
ROUNDS ?= 1000
simulate-real: $(DEV) ## kill -9 of real processes and failing cables of PostgreSQL, for a night (KILLS=200 ROUNDS=50: for a quarter of an hour)
	$(BIN)/python -m tests.simulation.real --kills $(KILLS) --rounds $(ROUNDS) $(ARGS)

ROOM ?= domain
COUNT ?= 150
SEED ?= 1
mutate: $(DEV) ## small faults in a room of bridge, one at a time, that its tests must notice (ROOM=delivery COUNT=150 SEED=1)
	$(BIN)/python -m tests.mutation --room $(ROOM) --count $(COUNT) --seed $(SEED) $(ARGS)

bench: $(DEV) ## what the performance claims rest on, in ten minutes; writes docs/performance.md (ARGS=--quick: rougher)
	PYTHONPATH=. $(BIN)/python benchmarks/table.py $(ARGS)

screenshots: $(DEV) ## pictures of every screen of the dashboard, both themes, desk and phone, in build/screenshots (TO=folder)
	@sh .ci/have-commands chromium=chromium
	$(BIN)/python -m tests.web.screenshots $(or $(TO),build/screenshots)

docs: $(DOCS) ## the manual as a site, in build/site, with every link checked and a search that works offline
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/mkdocs build --quiet --clean
	@echo "open build/site/index.html"

dist: $(DEV) ## the wheel and the sdist for PyPI, in dist/: the same bytes from the same commit
	$(BIN)/python deploy/dist.py

deb: $(DEV) ## the Debian package with all libraries, in dist/, for the Python of .venv
	$(BIN)/python deploy/debian/build.py --output dist

lock: $(DEV) ## resolve requirements/ again from pyproject.toml (UPGRADE=1 takes the newest versions)
	$(COMPILE) --output-file requirements/runtime.txt
	$(COMPILE) --group dev --constraint requirements/runtime.txt --output-file requirements/dev.txt
	$(COMPILE) --extra otel --constraint requirements/dev.txt --output-file requirements/otel.txt
	$(COMPILE:pyproject.toml=) --group build --constraint requirements/dev.txt --output-file requirements/build.txt
	$(COMPILE:pyproject.toml=) --group docs --constraint requirements/dev.txt --output-file requirements/docs.txt
	for server in requirements/servers/*.in; do $(COMPILE:pyproject.toml=) $$server --output-file $${server%.in}.txt || exit 1; done
	$(BIN)/python deploy/dist.py --sbom

clean: ## remove the environment and every cache
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .schemathesis build dist
	find bridge tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNTIME): requirements/build.txt requirements/runtime.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "runbridge needs Python 3.11 or newer and '$(PYTHON)' is not; name one that is: make PYTHON=/path/to/python3.11" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || sh .ci/have-package python3-venv "to make .venv"
	@echo "Setting up .venv with Python $(VERSION): pip installs requirements/build.txt and requirements/runtime.txt (once; up to a minute) …"
	@$(PYTHON) -m venv --clear .venv
	@$(INSTALL) --require-hashes -r requirements/build.txt -r requirements/runtime.txt
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): $(RUNTIME) requirements/dev.txt
	@echo "Setting up the tests and checks: pip installs requirements/dev.txt into .venv (once; up to two minutes) …"
	@$(INSTALL) --require-hashes -r requirements/dev.txt
	@touch $@

$(DOCS): $(RUNTIME) requirements/docs.txt
	@echo "Setting up the documentation: pip installs requirements/docs.txt into .venv (once) …"
	@$(INSTALL) --require-hashes -r requirements/docs.txt
	@touch $@

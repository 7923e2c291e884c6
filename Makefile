# Everything a person types. `make demo` and `make test` each work as the first command on a fresh clone.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SITE ?= site
DEMO_SITE ?= site-demo
# A site that is named is the only one that is stopped.
STOPPED := $(if $(filter file,$(origin SITE)),$(DEMO_SITE) $(SITE),$(SITE))
DEMO_COURSE ?= site-demo-course
SLURM_SITE ?= site-slurm
CLUSTER ?= /var/tmp/mqi-cluster

.PHONY: install install-imaging install-dev demo demo-course demo-slurm cluster cluster-stop stop dev test test-gate test-all test-chaos test-postgres mutate \
  lint docs snapshot benchmarks benchmark-load benchmark-pages clean

help:
	@echo "make demo          a generated case through the whole platform, and its pages"
	@echo "make demo-course   four real chest CTs from DICOM files to pages and tables, 5 minutes"
	@echo "make demo-slurm    the same on a real, throw-away Slurm cluster (needs root)"
	@echo "make cluster       that cluster alone; make cluster-stop ends it"
	@echo "make test          the default suite, under 8 minutes on two cores"
	@echo "make test-gate     one whole scenario each of services, Slurm, PostgreSQL, browser and real doses, and mypy;"
	@echo "                   with make test what must pass before anything lands (.ci/run); needs root"
	@echo "make test-all      all that make test leaves out: what needs root, servers, a browser or minutes, then"
	@echo "                   a short chaos and mutate; under an hour"
	@echo "make test-chaos    the two sites under faults; CHAOS_MINUTES=30 CHAOS_DRAIN_MINUTES=15 CHAOS_SEED=n for long"
	@echo "make test-postgres what runs on a PostgreSQL server, on one that it installs and starts"
	@echo "make dev           Dagster's pages, daemon and code location of the site in ./$(SITE)"
	@echo "make stop          end what demo or dev started"
	@echo "make mutate        prove that the tests notice wrong code"
	@echo "make snapshot      what the code location declares, as tests/assets/definitions.txt"
	@echo "make benchmarks    figures side by side with the alternatives"
	@echo "make benchmark-load  10,000 waiting beams on SQLite and on PostgreSQL, about 45 minutes"
	@echo "make benchmark-pages  10,000 cases and 100 open pages on both, about 30 minutes"

# An installation of minutes says how far it is.
define progress_of
awk -v all=$$(grep -c '^[A-Za-z0-9]' $(1)) '/^Collecting /{n++; if (n % 10 == 1) {print "  " n " of " all " packages: " $$2; fflush()}} /^Installing collected/{print "  unpacking " n " packages"; fflush()}'
endef

$(VENV)/.base:
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "Python 3.11 to 3.13 is needed")'
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "python3 has no venv: install Debian's package python3-venv (apt-get install python3-venv)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: requirements.lock pyproject.toml | $(VENV)/.base
	@echo "installing the run-time requirements into $(VENV)"
	@$(BIN)/pip install --disable-pip-version-check --progress-bar off --require-hashes -r requirements.lock \
	  | $(call progress_of,requirements.lock)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@# Where the environment forbids Python to write what it compiles, every process would compile all of it anew.
	@$(BIN)/python -m compileall -q mqi_dagster
	@touch $@

# Without dependencies: the lock has them all but the windows that z-rad brings for a program of its own.
$(VENV)/.installed-imaging: requirements-imaging.lock $(VENV)/.installed
	@echo "installing the imaging requirements into $(VENV)"
	@$(BIN)/pip install --disable-pip-version-check --progress-bar off --require-hashes --no-deps \
	  -r requirements-imaging.lock | $(call progress_of,requirements-imaging.lock)
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed $(VENV)/.installed-imaging
	@echo "installing the development requirements into $(VENV)"
	@$(BIN)/pip install --disable-pip-version-check --progress-bar off --require-hashes -r requirements-dev.lock \
	  | $(call progress_of,requirements-dev.lock)
	@touch $@

install: $(VENV)/.installed

install-imaging: $(VENV)/.installed-imaging

install-dev: $(VENV)/.installed-dev

demo: install
	@$(BIN)/mqi demo --site $(DEMO_SITE)

demo-course: install-imaging
	@$(BIN)/mqi course demo --out $(DEMO_COURSE)

demo-slurm: install
	@$(BIN)/python deploy/demo_slurm.py $(SLURM_SITE) $(CLUSTER)

cluster:
	@$(PYTHON) deploy/cluster install
	@$(PYTHON) deploy/cluster start --root $(CLUSTER)
	@$(PYTHON) deploy/cluster env --root $(CLUSTER)

cluster-stop:
	@$(PYTHON) deploy/cluster clean --root $(CLUSTER)

dev: install
	@test -f $(SITE)/mqi.yaml || $(BIN)/mqi init $(SITE)
	@$(BIN)/mqi dev --site $(SITE)

stop: install
	@failed=0; for place in $(STOPPED); do \
	  if [ -f $$place/mqi.yaml ]; then echo "$$place:"; $(BIN)/mqi stop --site $$place || failed=1; fi; done; exit $$failed

test: install-dev
	@PYTEST_DEBUG_TEMPROOT="$$(tests/in-memory)" $(BIN)/python -m pytest -m "not slow" -n 2 --dist worksteal --durations=$(or $(DURATIONS),0) --durations-min=$(or $(DURATIONS_MIN),5)

test-gate: install-dev
	@tests/system-packages
	@$(BIN)/python -m pytest -m gate -n 2 --dist worksteal --durations=0

test-all: install-dev
	@tests/system-packages
	@$(BIN)/python -m pytest -m "slow and not chaos" -n 2 --dist worksteal --durations=0
	@$(MAKE) --no-print-directory test-chaos
	@$(MAKE) --no-print-directory mutate

test-chaos: install-dev
	@tests/system-packages
	@$(BIN)/python -m pytest tests/chaos -m chaos -s --durations=0

test-postgres: install-dev
	@$(PYTHON) deploy/postgres install
	@$(BIN)/python -m pytest -m postgres -n 2 --dist worksteal --durations=10 tests/postgres tests/ledger \
	  tests/chain/test_sensors.py tests/chain/test_retention_of_runs.py tests/chain/test_coming_back.py \
	  tests/services/test_services_on_postgres.py tests/production tests/worklist

mutate: install-dev
	@$(BIN)/python -m tests.mutate

lint: install-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: install
	@$(BIN)/mqi settings-reference > docs/settings.md
	@$(BIN)/python -m mqi_dagster.cli.code_reference docs

snapshot: install-dev
	@$(BIN)/python -m tests.assets.definitions_snapshot
	@git diff --stat -- tests/assets/definitions.txt

benchmarks: install-dev
	@$(BIN)/python -m benchmarks.interpret
	@$(BIN)/python -m benchmarks.overhead
	@$(BIN)/python -m benchmarks.records
	@$(BIN)/python -m benchmarks.top
	@$(BIN)/python -m benchmarks.inbox
	@$(BIN)/python -m benchmarks.startup
	@$(BIN)/python -m benchmarks.workers
	@$(BIN)/python -m benchmarks.courses
	@if [ "$$(id -u)" -eq 0 ]; then $(PYTHON) deploy/cluster install && $(BIN)/python -m benchmarks.hpc; \
	  else echo "benchmarks/hpc.py was left out: its cluster needs root"; fi

benchmark-load: install-dev
	@$(BIN)/python -m benchmarks.load

benchmark-pages: install-dev
	@$(BIN)/python -m benchmarks.web

clean:
	@rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis

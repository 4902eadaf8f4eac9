# Every target makes .venv itself when it is missing or older than pyproject.toml, and does nothing twice.
PYTHON ?= python3
NAME ?=
# Tests run in this many processes of one thread each, every file in one of them, the longest first.
WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
MAKEFLAGS += --no-print-directory
BIN := .venv/bin
STAMP := .venv/.installed
PEERS := .venv/.peers

.DEFAULT_GOAL := setup
.PHONY: setup demo docs test test-all lint bench fuzz constraints audit sbom clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Plasmid needs Python 3.11 or later, but '$(PYTHON)' is missing or older." \
	       "Try: make setup PYTHON=python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --editable '.[platform,demo,dev]'
	@touch $@

# Six real donors fine-tune one protein language model together, each behind its own gateway; half of the rounds.
demo: $(STAMP)
	$(BIN)/plasmid run tcr-covid --set federation.rounds=24 --yes

# The references that follow from the code: docs/cli.md, docs/errors.md and the keys of the policy.
docs: $(STAMP)
	$(BIN)/python tools/cli_doc.py
	$(BIN)/python tools/errors_doc.py
	$(BIN)/python tools/policy_doc.py
	$(BIN)/python tools/rings.py

test: $(STAMP)
	$(PYTEST)

# With the tests that take more than a few seconds.
test-all: $(STAMP)
	$(PYTEST) -m ''

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/promises.py

# The peers that benchmarks compare with.
$(PEERS): $(STAMP)
	@$(BIN)/python -m pip install --quiet --editable '.[platform,demo,dev,bench]' >&2
	@touch $@

# make bench NAME=link for one benchmark; the last line on stdout is JSON.
bench: $(PEERS)
	@PYTHONPATH=tests $(BIN)/python -m bench $(NAME)

# make fuzz NAME=policy for one parser, all for a million inputs or ten minutes each: hours.
fuzz: $(STAMP)
	@PYTHONPATH=tests $(BIN)/python -m fuzz $(if $(NAME),'$(NAME)')

# The pins of constraints/, with hashes and licences, of what this environment was tested with. Needs an index.
constraints: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tools/constraints.py

# Fails on a known vulnerability of a pin; says so where no index with advisories answers.
audit: $(STAMP)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tools/audit.py

# build/sbom.json: what a node consists of, as CycloneDX.
sbom: $(STAMP)
	$(BIN)/python tools/sbom.py

# Removes what the targets above made, .venv included.
clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find models recipes node platform tests benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} +

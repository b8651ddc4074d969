# Two commands matter: `make demo` and `make test`. Both make `.venv` first, where it is missing.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# The oldest transformers that pyproject.toml allows. Any other: make test-older OLDER=5.17.0
OLDER ?= 5.0.0
OLD := build/transformers-$(OLDER)

.PHONY: demo test test-older lint types contracts docs bench check clean

demo: $(INSTALLED)       ## prune the embedded model with D²Pruner and with baselines
	$(BIN)/prunekit demo

test: $(INSTALLED)       ## the whole test suite
	$(BIN)/python -m pytest -n auto --cov --cov-report=term

test-older: $(OLD)/.installed  ## what meets transformers, with an older one
	PYTHONPATH=$(OLD) $(BIN)/python -m pytest -n auto tests/hf --ignore=tests/hf/test_hf_flops.py

$(OLD)/.installed: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --target $(OLD) \
		transformers==$(OLDER) "$$(grep '^numpy==' constraints.txt)"
	@touch $@

lint: $(INSTALLED)       ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)      ## static types, strict
	$(BIN)/basedpyright

contracts: $(INSTALLED)  ## who may import whom
	$(BIN)/lint-imports --no-logo

docs: $(INSTALLED)       ## the site, in site/
	$(BIN)/mkdocs build --strict --quiet

bench: $(INSTALLED)      ## selection beside its references, as ratios in one run
	$(BIN)/prunekit bench select

check: lint types contracts docs test

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("prunekit needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) --editable '.[dev,docs,train]'
	@touch $@

clean:
	rm -rf .venv build dist site .coverage .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info

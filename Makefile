# SPDX-License-Identifier: Apache-2.0
#
#   make demo    two image files joined by a table, exported over NBD, read back
#   make test    every test
#   make lint    only the linters
#   make bench   how fast it is, beside nbdkit, qemu and others; ARGS=--help for its options
#   make clean   removes what the others made
#
# The first four make .venv by themselves. PYTHON=... names another interpreter.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test lint bench clean

VENV := .venv
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# What the installation depends on. It is an editable one: other changes need no second one.
INSTALLED_FROM := pyproject.toml $(wildcard native/*)

# More for pytest or the benchmarks, e.g. make test ARGS='-k linear'
ARGS ?=

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/installed
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" examples/demo.sh

test: $(VENV)/installed-test
	@$(VENV)/bin/python -m pytest -n 2 --dist loadgroup $(ARGS)

lint: $(VENV)/installed-test
	@$(VENV)/bin/python -m pytest -q tests/style -m 'not slow'

bench: $(VENV)/installed
	@$(VENV)/bin/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info dmtool/_btree*.so dmtool/_stats*.so dmtool/_nbd*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "dmtool needs Python 3.11 or later: sudo apt install python3, or make PYTHON=/path/to/python3.11"; exit 1; fi
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$(PYTHON) cannot make virtual environments: sudo apt install python3-venv"; exit 1; fi
	@echo "Making a virtual environment in $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python $(INSTALLED_FROM)
	@echo "Installing dmtool and its four libraries into $(VENV)"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/installed-test: $(VENV)/bin/python $(INSTALLED_FROM)
	@echo "Installing dmtool and what its tests need into $(VENV)"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@ $(VENV)/installed

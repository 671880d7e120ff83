# SPDX-License-Identifier: Apache-2.0
#
#   make demo    two image files joined by a table, exported over NBD, read back
#   make test    every test
#   make lint    only the linters
#   make man     writes the manual pages anew, from the commands and the documentation
#   make bench   how fast it is, beside nbdkit, qemu and others; ARGS=--help for its options
#   make clean   removes what the others made
#
# The first five make .venv by themselves. PYTHON=... names another interpreter.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test lint man bench clean

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

man: $(VENV)/installed
	@$(VENV)/bin/python -m dmtool.cli.manual

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

# An editable installation leaves the manual pages and completions where they are.
SHARE = mkdir -p $(VENV)/share/{man,bash-completion,zsh,fish} && \
	ln -sfn ../../../man $(VENV)/share/man/man5 && \
	ln -sfn ../../../man $(VENV)/share/man/man8 && \
	ln -sfn ../../../completion/bash $(VENV)/share/bash-completion/completions && \
	ln -sfn ../../../completion/zsh $(VENV)/share/zsh/site-functions && \
	ln -sfn ../../../completion/fish $(VENV)/share/fish/vendor_completions.d

$(VENV)/installed: $(VENV)/bin/python $(INSTALLED_FROM)
	@echo "Installing dmtool and its four libraries into $(VENV)"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable .
	@$(SHARE)
	@touch $@

$(VENV)/installed-test: $(VENV)/bin/python $(INSTALLED_FROM)
	@echo "Installing dmtool and what its tests need into $(VENV)"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@$(SHARE)
	@touch $@ $(VENV)/installed

# Run `make` for a list of what there is. CONTRIBUTING.md says more.

PYTHON ?= python3
# What `make test` and `make flows` run on, instead of what tests/matrix.py chooses for this Python.
TEST_ON ?=
FLOWS_ON ?=

PIP_INSTALL = -m pip --disable-pip-version-check install
REQUIREMENTS = tests/requirements
CONSTRAINTS = --constraint $(REQUIREMENTS)/constraints.txt

.PHONY: help demo test flows lint bench clean supported
.DELETE_ON_ERROR:

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile | expand -t 16
	@echo 'They need Python 3.10 or later; make test PYTHON=python3.12 uses another than $(PYTHON).'

demo: .venv/demo/.done ## the live demo; ONCE=1: prints its table once (2 min the first time)
	@.venv/demo/bin/faultlens demo $(if $(ONCE),--once) $(if $(SECONDS),--seconds $(SECONDS))

test: supported ## all checks, with the oldest and the newest SDKs (25 min on two cores)
	@$(PYTHON) -m tests.matrix test $(TEST_ON)

flows: supported ## what happens in the SDKs, and what is counted, as tables (3 min)
	@$(PYTHON) -m tests.matrix flows $(FLOWS_ON)

lint: .venv/lint/.done ## ruff and mypy (1 min)
	.venv/lint/bin/ruff check .
	.venv/lint/bin/ruff format --check .
	.venv/lint/bin/mypy

bench: .venv/lint/.done ## what faultlens costs (5 min)
	.venv/lint/bin/python -m benchmarks.run
	.venv/lint/bin/python -m benchmarks.switching

clean: ## removes .venv, where all environments are
	rm -rf .venv

supported:
	$(if $(shell $(PYTHON) -c 'import sys; print(sys.version_info >= (3, 10) or "")'),,$(error \
	  faultlens needs Python 3.10 or later, and $(PYTHON) is $(or $(shell $(PYTHON) --version 2>&1),not there). \
	  Name another: make $(MAKECMDGOALS) PYTHON=python3.12))

# The lines of pip, as a dot for each package.
.venv/demo/.done: pyproject.toml | supported
	@printf 'Setting up .venv/demo, once; this takes a minute or two '
	@$(PYTHON) -m venv --clear .venv/demo
	@{ .venv/demo/bin/python $(PIP_INSTALL) --progress-bar off --editable '.[demo]'; echo "status $$?"; } | \
	  while read -r word rest; do case "$$word $$rest" in \
	    "Collecting "*) printf . ;; \
	    "Installing collected "*) printf ' installing ' ;; \
	    "status "*) echo; exit $$rest ;; \
	  esac; done
	@touch $@

.venv/lint/.done: pyproject.toml $(REQUIREMENTS)/*.txt | supported
	$(PYTHON) -m venv --clear .venv/lint
	.venv/lint/bin/python $(PIP_INSTALL) --quiet $(CONSTRAINTS) --editable . \
	  -r $(REQUIREMENTS)/dev.txt -r $(REQUIREMENTS)/newest.txt
	touch $@

.venv/%/.done: pyproject.toml $(REQUIREMENTS)/*.txt | supported
	$(PYTHON) -m venv --clear .venv/$*
	.venv/$*/bin/python $(PIP_INSTALL) --quiet $(CONSTRAINTS) --editable . \
	  -r $(REQUIREMENTS)/dev.txt -r $(REQUIREMENTS)/$(SDKSET).txt
	touch $@

# make demo          the live demo; make demo ONCE=1 prints its table once
# make test          everything that is checked, with the oldest and the newest SDKs, on python3
# make flows         what happens in the SDKs, how often it truly goes wrong, what is counted
# make bench         the figures
#
# Each environment is made once, in .venv; `make clean` takes them away.

PYTHON ?= python3
# What is run on: Pythons, each with the SDKs of tests/requirements/{oldest,between,newest}.txt.
TEST_ON ?= $(PYTHON):oldest $(PYTHON):newest
FLOWS_ON ?= $(PYTHON):oldest $(PYTHON):between $(PYTHON):newest

.PHONY: demo test flows lint bench clean
.DELETE_ON_ERROR:

PIP_INSTALL = -m pip --disable-pip-version-check install --quiet
REQUIREMENTS = tests/requirements
CONSTRAINTS = --constraint $(REQUIREMENTS)/constraints.txt

demo: .venv/demo/.done
	@.venv/demo/bin/faultlens demo $(if $(ONCE),--once) $(if $(SECONDS),--seconds $(SECONDS))

test: lint
	@$(call on_each,$(TEST_ON),$$bin/python -m pytest --numprocesses auto --dist loadfile)

flows:
	@$(call on_each,$(FLOWS_ON),$(FLOWS))

FLOWS = for sdk in flyte durable; do \
  FAULTLENS=1 OTEL_EXPORTER_PROMETHEUS_PORT=0 $$bin/python -m tests.sdks.$${sdk}_flows \
    2>.venv/flows.log || { cat .venv/flows.log; exit 1; }; \
  done

# on_each(pairs of Python and SDKs, command): run it with the environment of each, $$bin.
on_each = set -e; for pair in $(1); do \
  python=$${pair%:*}; sdks=$${pair\#\#*:}; \
  name=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])')-$$sdks; \
  $(MAKE) --no-print-directory .venv/$$name/.done PYTHON=$$python SDKSET=$$sdks; \
  bin=.venv/$$name/bin; \
  echo "== Python and SDKs: $$name"; \
  $(2); \
  done

lint: .venv/lint/.done
	.venv/lint/bin/ruff check .
	.venv/lint/bin/ruff format --check .
	.venv/lint/bin/mypy

bench: .venv/lint/.done
	.venv/lint/bin/python benchmarks/run.py
	.venv/lint/bin/python benchmarks/store.py

clean:
	rm -rf .venv

.venv/demo/.done: pyproject.toml
	@echo 'Setting up .venv/demo, once; this takes a minute or two ...'
	@$(PYTHON) -m venv --clear .venv/demo
	@.venv/demo/bin/python $(PIP_INSTALL) --editable '.[demo]'
	@touch $@

# The Python of the last pair, which .ci/run makes the newest: mypy sees both sides of a version check.
.venv/lint/.done: pyproject.toml $(REQUIREMENTS)/*.txt
	pair='$(lastword $(TEST_ON))'; $${pair%:*} -m venv --clear .venv/lint
	.venv/lint/bin/python $(PIP_INSTALL) $(CONSTRAINTS) --editable . \
	  -r $(REQUIREMENTS)/dev.txt -r $(REQUIREMENTS)/newest.txt
	.venv/lint/bin/python $(PIP_INSTALL) --no-deps -r $(REQUIREMENTS)/newest-no-deps.txt
	touch $@

.venv/%/.done: pyproject.toml $(REQUIREMENTS)/*.txt
	$(PYTHON) -m venv --clear .venv/$*
	.venv/$*/bin/python $(PIP_INSTALL) $(CONSTRAINTS) --editable . \
	  -r $(REQUIREMENTS)/dev.txt -r $(REQUIREMENTS)/$(SDKSET).txt
	if [ -f $(REQUIREMENTS)/$(SDKSET)-no-deps.txt ]; then \
	  .venv/$*/bin/python $(PIP_INSTALL) --no-deps -r $(REQUIREMENTS)/$(SDKSET)-no-deps.txt; \
	fi
	touch $@

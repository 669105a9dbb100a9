# make demo          the live demo; make demo ONCE=1 prints its table once
# make test          everything that is checked, with the oldest and the newest SDKs, on python3
# make bench         the figures
#
# Each environment is made once, in .venv; `make clean` takes them away.

PYTHON ?= python3
# What `make test` runs on: a Python and the SDKs of tests/requirements/{oldest,newest}.txt.
TEST_ON ?= $(PYTHON):oldest $(PYTHON):newest

.PHONY: demo test lint bench clean
.DELETE_ON_ERROR:

PIP_INSTALL = -m pip --disable-pip-version-check install --quiet
REQUIREMENTS = tests/requirements
CONSTRAINTS = --constraint $(REQUIREMENTS)/constraints.txt

demo: .venv/demo/.done
	@.venv/demo/bin/faultlens demo $(if $(ONCE),--once) $(if $(SECONDS),--seconds $(SECONDS))

test: lint
	@set -e; for pair in $(TEST_ON); do \
	  python=$${pair%:*}; sdks=$${pair##*:}; \
	  name=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])')-$$sdks; \
	  $(MAKE) --no-print-directory .venv/$$name/.done PYTHON=$$python SDKSET=$$sdks; \
	  echo "== Python and SDKs: $$name"; \
	  .venv/$$name/bin/python -m pytest --numprocesses auto --dist loadfile; \
	done

lint: .venv/lint/.done
	.venv/lint/bin/ruff check .
	.venv/lint/bin/ruff format --check .
	.venv/lint/bin/mypy

bench: .venv/lint/.done
	.venv/lint/bin/python benchmarks/run.py

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

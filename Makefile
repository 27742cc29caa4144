# make demo: set up and run the whole way on a simulated cohort.   make test: set up and pass the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup browser demo test lint docs wheel audit nightly ci clean

setup: $(READY)

# The environment is kept while the lock file stays the same.
$(READY): requirements.lock pyproject.toml
	@if [ -f $(READY) ] && [ "$$(cat $(READY))" = "$$(sha256sum < requirements.lock)" ]; then touch $(READY); else \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; try make PYTHON=python3.11")' && \
	  $(PYTHON) -m venv --clear $(VENV) && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . && \
	  sha256sum < requirements.lock > $(READY); fi

# The tests of mst report and mst serve drive a real browser, which is no Python package.
browser:
	@sh .ci/browser

demo: setup
	$(BIN)/mst demo -o demo --force

test: setup browser
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

wheel: setup
	sh .ci/wheel $(BIN)/python

# Known holes in what requirements.lock pins; asks a database on the internet, with a pip-audit of its own.
audit:
	@$(PYTHON) -m venv build/audit && build/audit/bin/pip install --quiet --disable-pip-version-check pip-audit && \
	  build/audit/bin/pip-audit --require-hashes --disable-pip -r requirements.lock

nightly: setup
	PYTHON=$(BIN)/python bash .ci/nightly

ci: test lint docs wheel

clean:
	rm -rf $(VENV) build dist demo *.egg-info

# Everything runs in .venv, which `make venv` sets up and which is rebuilt when setup.py changes.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := serve,train,data,eval,ifeval,ray,dev

# Any of these that is Python 3.11 or 3.12; override with `make PYTHON=/path/to/python3.11`.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	"$$p" -c '$(SUPPORTED)' 2>/dev/null && echo "$$p" && break; done)

# uv from PATH, or a private copy: `pip --target` needs neither root nor the venv module.
BOOTSTRAP := $(VENV)/bootstrap
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo $(BOOTSTRAP)/bin/uv)

export UV_HTTP_TIMEOUT ?= 300

.PHONY: help venv demo test test-plain test-servers test-nightly lint format docs clean

help:
	@echo "make demo    run the main job: a question in, a forked and joined answer out"
	@echo "make test    run the tests (make test ARGS='tests/core -x': some of them)"
	@echo "make test-nightly  run the tests that make test leaves out"
	@echo "make lint    ruff and mypy"
	@echo "make format  ruff's formatter and safe fixes"
	@echo "make docs    build the site of docs/ into build/site; warnings are errors"
	@echo "make venv    set up $(VENV) alone (the first time downloads some 5 GB)"
	@echo "make clean   remove $(VENV) and caches"

venv: $(STAMP)

$(BOOTSTRAP)/bin/uv:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed: make PYTHON=/path/to/python"; exit 1; }
	"$(PYTHON)" -m pip install --quiet --disable-pip-version-check --target $(BOOTSTRAP) uv

$(STAMP): setup.py pyproject.toml $(filter-out uv,$(UV))
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed: make PYTHON=/path/to/python"; exit 1; }
	@test -x $(BIN)/python || $(UV) venv --quiet --allow-existing --python "$(PYTHON)" $(VENV)
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(UV) pip install --compile-bytecode -e '.[$(EXTRAS)]'
	@touch $@

demo: venv
	$(BIN)/multiverse demo

# With ARGS one pytest run; without, the tests that start servers beside those that do not.
test: venv
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=line test-servers test-plain
endif

test-plain: venv
	$(BIN)/python -m pytest -m "not nightly" --ignore=tests/e2e

test-servers: venv
	$(BIN)/python -m pytest -m "not nightly" tests/e2e

# More servers of other kinds, soaks, what takes minutes and seldom tells anything new.
test-nightly: venv
	$(BIN)/python -m pytest -m nightly

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: venv
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache

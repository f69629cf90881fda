# make run       set up, then the platform on a simulated market: http://127.0.0.1:8000
# make test      set up, then the tests (test-all: the slow ones, too)
# make lint      style, types, direction of dependencies
# make bench     measure (ARGS="..." is handed on, also to run and test)
#
# Needs Python 3.11 or newer with its venv module, nothing else. PYTHON=python3.13 chooses one.

VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
# Processes of the tests: many of them wait for servers, so more than there are processors. With 0 they run
# one after the other, as a debugger needs it. The tests of a file share what is expensive to set up, so one
# process runs them all. They start a hundred processes of ours, none of which should compile it all again.
WORKERS ?= 4
PYTEST = env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n $(WORKERS) \
	--dist loadfile --no-loadscope-reorder --max-worker-restart 0

# The first interpreter that is new enough.
FOUND_PYTHON = $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.DEFAULT_GOAL := help
.PHONY: help run test test-all lint style types imports format bench clean distclean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -6

run: $(VENV)/.installed
	$(BIN)/mdp run --role all --demo $(ARGS)

test: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(VENV)/.installed-dev
	$(PYTEST) $(ARGS)

lint: style types imports

style: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.installed-dev
	$(BIN)/mypy --strict

imports: $(VENV)/.installed-dev
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.installed
	$(BIN)/mdp bench ingest $(ARGS)

# An interpreter that was asked for replaces an environment of another version.
$(BIN)/python:
	@python="$(or $(PYTHON),$(FOUND_PYTHON))"; \
	if [ -z "$$python" ]; then \
		echo "Python 3.11 or newer was not found. Install it, or give its path: make PYTHON=/path/to/python3.11"; exit 1; \
	fi; \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$$python is older than Python 3.11, or does not run"; exit 1; }; \
	echo "$$python -m venv $(VENV)"; "$$python" -m venv --clear $(VENV)

ifneq ($(PYTHON),)
VERSION_OF = -c 'import sys; print(sys.version_info[:2])' 2>/dev/null
ifneq ($(shell $(PYTHON) $(VERSION_OF)),$(shell $(BIN)/python $(VERSION_OF)))
.PHONY: $(BIN)/python $(VENV)/.installed $(VENV)/.installed-dev
endif
endif

# Stamps: installed again only when what is to be installed has changed.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	find mdp tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)

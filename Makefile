# Everything is set up on first use; all that is needed is Python 3.11 or 3.12, make and g++.
VENV := .venv
BIN := $(VENV)/bin
PYTHONS := python3.11 python3.12 python3
ARGS :=

.PHONY: help setup sweep stack stack-stop test check lock clean

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/ready  ## make the virtual environment

sweep: setup  ## run the ReCAM threshold sweep on the built-in scenes (ARGS="--trials 20 ...")
	$(BIN)/python sweeps/recam_threshold.py $(ARGS)

stack: setup  ## start PostgreSQL, SeaweedFS, MLflow and a Ray cluster here (ARGS="--workers 2 ...")
	$(BIN)/python -m infra.local.stack start $(ARGS)

stack-stop:  ## end what `make stack` started; its data stays
	$(BIN)/python -m infra.local.stack stop $(ARGS)

# Two processes, whatever the machine: half of the time goes by in waiting for servers to start.
test: check  ## run every check and every test (ARGS="tests/unit -k store")
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadscope --no-loadscope-reorder $(ARGS)

check: setup  ## lint, types, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

lock: setup  ## pin the newest versions that pyproject.toml allows
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 \
	    --no-header --no-annotate --quiet --upgrade --output-file requirements.lock

clean:  ## remove the virtual environment and caches (not ~/.stageflow)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache

# A version manager may put a name on the PATH that does not run: so each is tried.
$(VENV)/ready: requirements.lock pyproject.toml
	@set -e; for candidate in $(PYTHONS); do \
	    if $$candidate -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; \
	    then python=$$candidate; break; fi; done; \
	if [ -z "$$python" ]; then echo "error: no Python 3.11 or 3.12 found (tried: $(PYTHONS))" >&2; exit 1; fi; \
	echo "setting up $(VENV) with $$($$python --version): about 3 GB, a few minutes"; \
	[ -x $(BIN)/python ] || $$python -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --python $(BIN)/python --quiet requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation --editable .
	@touch $@

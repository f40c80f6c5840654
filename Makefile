# `make` alone lists the targets. They share one environment, .venv, rebuilt when pyproject.toml or constraints.txt change.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
WORKERS := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo reproduce test check types pytest lab dashboard bench bench-gpu browser constraints clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  make demo ARGS=\"--max-steps 20\": ARGS is appended to the command (not for test and check)"
	@echo "  PYTHON=python3.12 make … uses another Python (3.11 or newer)"

demo: $(READY) ## offline: reproduce a card exactly, then train another on stand-ins, each with verdict and report
	$(BIN)/workbench reproduce porsche-minilm $(ARGS)
	$(BIN)/workbench reproduce porsche-mxbai --base bundled:minilm --data sample:porsche --max-steps 30 $(ARGS)
	@echo
	@echo "To see the run in a browser:   make dashboard"
	@echo "To open the notebooks:         make lab"

reproduce: $(READY) ## train all five recipes on the samples, as written and corrected, and print the table
	$(BIN)/python tests/benchmarks/five.py $(ARGS)

test: $(READY) browser ## lint, types and all tests except the long ones (CI runs this)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@$(MAKE) --no-print-directory --jobs 2 types pytest

check: $(READY) ## lint, types and the fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@$(MAKE) --no-print-directory --jobs 2 types pytest SELECT='-q -m "not slow and not browser"'

types: # beside pytest, because mypy uses one core
	$(BIN)/mypy

pytest:
	$(BIN)/python -m pytest $(WORKERS) $(SELECT)

lab: $(READY) ## open the notebooks in JupyterLab
	$(BIN)/workbench lab $(ARGS)

dashboard: $(READY) ## open the dashboard
	$(BIN)/workbench dashboard $(ARGS)

bench: $(READY) ## run the benchmarks and record them in tests/benchmarks/RESULTS.md
	$(BIN)/python tests/benchmarks/bench.py $(ARGS)

bench-gpu: $(READY) ## time the five recipes at full size on this machine's GPU, into tests/benchmarks/RESULTS.md
	$(BIN)/python tests/benchmarks/gpu.py $(ARGS)

browser: ## install Chromium from the distribution for the browser tests, if possible
	@.ci/browser

constraints: ## regenerate constraints.txt from a clean environment
	rm -rf build/constraints
	$(PYTHON) -m venv build/constraints
	build/constraints/bin/python -m pip install "pip>=23" "torch==2.13.0" -e ".[all,test]"
	( grep '^#' constraints.txt; build/constraints/bin/python -m pip freeze --all --exclude-editable | grep -v "^pip==" \
	  | sed -E 's/^torch @ .*|^torch==.*/torch==2.13.0/; s/\+cpu$$//' ) > build/constraints.txt
	mv build/constraints.txt constraints.txt
	rm -rf build/constraints

clean: ## remove caches and build output; keep runs/ and .venv
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find workbench dashboard tests data notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "'$(PYTHON)' is older than Python 3.11; use a newer one: PYTHON=python3.12 make …" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot create virtual environments; on Debian and Ubuntu: sudo apt-get install python3-venv" >&2; exit 2; }
	@echo "Installing into $(VENV): about 180 packages, several minutes the first time."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "pip>=23"
	$(BIN)/python -m pip install --no-compile -c constraints.txt -e ".[all,test]"
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true  # on all cores; torch has files for newer Pythons
	@touch $@

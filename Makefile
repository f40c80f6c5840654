# Every command that a person needs. `make` alone lists them.
# One environment for all of them: .venv, made once, made anew when pyproject.toml or constraints.txt change.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
ABREAST := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo reproduce test check lab dashboard bench bench-gpu browser constraints clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  make demo ARGS=\"--max-steps 20\": ARGS is added to what the command runs (not to test and check)"
	@echo "  PYTHON=python3.12 make … takes another Python (3.11 or newer)"

demo: $(READY) ## the main job, offline: train a card's recipe on the shipped sample, compare, write a report
	$(BIN)/workbench reproduce porsche-mxbai --base bundled:minilm --data sample:porsche $(ARGS)
	@echo
	@echo "To look at this run and others in a browser: make dashboard"
	@echo "To take it apart in a notebook:              make lab"

reproduce: $(READY) ## all five recipes on the shipped samples, as written and corrected: the table of README.md
	$(BIN)/python tests/benchmarks/five.py $(ARGS)

test: $(READY) browser ## everything that must hold: lint, types, all tests (this is what CI calls)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(ABREAST)

check: $(READY) ## lint, types and the fast tests, for use while working
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(ABREAST) -q -m "not slow and not browser"

lab: $(READY) ## open the notebooks in JupyterLab
	$(BIN)/workbench lab $(ARGS)

dashboard: $(READY) ## open the dashboard
	$(BIN)/workbench dashboard $(ARGS)

bench: $(READY) ## everything that is timed, beside the plain way to the same numbers, into tests/benchmarks/RESULTS.md
	$(BIN)/python tests/benchmarks/bench.py $(ARGS)

bench-gpu: $(READY) ## the five recipes at their real shapes on this machine's GPU, into tests/benchmarks/RESULTS.md
	$(BIN)/python tests/benchmarks/gpu.py $(ARGS)

browser: ## install Chromium from the distribution for the browser tests, where that is possible
	@.ci/browser

constraints: ## write constraints.txt anew from a clean environment
	rm -rf build/constraints
	$(PYTHON) -m venv build/constraints
	build/constraints/bin/python -m pip install "pip>=23" "torch==2.13.0" -e ".[offline,test]"
	( grep '^#' constraints.txt; build/constraints/bin/python -m pip freeze --all --exclude-editable | grep -v "^pip==" \
	  | sed -E 's/^torch @ .*|^torch==.*/torch==2.13.0/; s/\+cpu$$//' ) > build/constraints.txt
	mv build/constraints.txt constraints.txt
	rm -rf build/constraints

clean: ## remove caches and build output; runs/ and .venv stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find workbench dashboard tests data notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, '$(PYTHON)' is not; name another one: PYTHON=python3.12 make …" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments; on Debian and Ubuntu: sudo apt-get install python3-venv" >&2; exit 2; }
	@echo "Installing into $(VENV): about 180 packages, several minutes the first time."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "pip>=23"
	$(BIN)/python -m pip install -c constraints.txt -e ".[offline,test]"
	@touch $@

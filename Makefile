# Two commands do everything: `make demo` and `make test`. Each makes .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
export TOKENIZERS_PARALLELISM := false
OFFLINE := HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1

CODE := minildm tests benchmarks exercises solutions tools

.PHONY: demo check test chapters clean help

help:  ## show this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /	/'

demo: $(STAMP)  ## train the shapes model, judge it, draw it
	$(BIN)/python -m minildm demo

check: $(STAMP)  ## style and the quick tests, in two processes
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -p no:nbval -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

test: $(STAMP)  ## style, all tests in two processes, every chapter
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -p no:nbval -n 2 --dist loadfile --no-loadscope-reorder
	$(OFFLINE) $(BIN)/python -m pytest -q --nbval-lax --nbval-current-env --nbval-cell-timeout 300 chapters

chapters: $(STAMP)  ## run every chapter from the top and save it with its outputs
	$(OFFLINE) $(BIN)/python tools/run_chapters.py
	$(BIN)/python tools/ledger.py
	$(BIN)/python tools/readme_table.py

$(STAMP): requirements.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "minildm needs Python 3.11 or later: install it, or name it with make PYTHON=/path/to/python3"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "minildm needs Python 3.11 or later, but $(PYTHON) is $$($(PYTHON) --version 2>&1): install a newer one (Debian, Ubuntu: apt install python3.11 python3.11-venv) and call make PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "$(PYTHON) has no venv module: install it (Debian, Ubuntu: apt install python3-venv), then call make again"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

clean:  ## remove the environment and caches (never a run)
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis
	find $(CODE) -name __pycache__ -prune -exec rm -rf {} +

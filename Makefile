# make demo: sets up, runs the main job offline.   make test: sets up, passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DONE := $(VENV)/.done
# One pytest worker a core, at most four: every worker imports torch.
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); [ $$n -gt 4 ] && echo 4 || echo $$n)

export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test test-soak test-real check bench-less docs layout clean

$(DONE): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# A package here would shadow the standard library's `selectors`, and kill asyncio and pytest with an opaque message.
layout:
	@if [ -e selectors/__init__.py ]; then \
	  echo "selectors/__init__.py shadows the standard library's module: remove it (ARCHITECTURE.md, The house)"; exit 1; fi

demo: $(DONE)
	$(BIN)/tamis run less

test: layout $(DONE)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-soak: layout $(DONE)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "soak and not gpu"

test-real: layout $(DONE)
	$(BIN)/python -m pytest -m "real and not gpu"

check: layout $(DONE)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

bench-less: $(DONE)
	$(BIN)/python benchmarks/less.py --json

docs: $(DONE)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "Site: site/index.html"

clean:
	rm -rf $(VENV) build dist site src/*.egg-info .mypy_cache .ruff_cache .pytest_cache

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

.PHONY: demo test test-soak test-real outside-masks check docs layout clean

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

$(VENV)/.soak: $(DONE)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,soak]'
	touch $@

test-soak: layout $(VENV)/.soak
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "soak and not gpu"

test-real: layout $(DONE)
	$(BIN)/python -m pytest -m "real and not gpu"

# Axolotl and LLaMA-Factory pin other versions than tamis: each runs its own preprocessing in an environment of its own.
# Only what that code imports is installed, beside torch; their other dependencies need CUDA builds.
.venv-%/.done: tests/outside/%.txt constraints.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet -c constraints.txt torch
	.venv-$*/bin/python -m pip install --quiet --no-deps -r tests/outside/$*.txt
	touch $@

outside-masks: layout $(DONE) .venv-axolotl/.done .venv-llama-factory/.done
	TAMIS_AXOLOTL_PYTHON=$(CURDIR)/.venv-axolotl/bin/python \
	TAMIS_LLAMA_FACTORY_PYTHON=$(CURDIR)/.venv-llama-factory/bin/python \
	$(BIN)/python -m pytest tests/test_outside_masks.py -rP

check: layout $(DONE)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

$(VENV)/.bench: $(DONE)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	touch $@

# make bench-less, bench-store, bench-submodular, bench-million …: benchmarks/NAME.py in full, with its peers.
bench-%: $(VENV)/.bench
	$(BIN)/python benchmarks/$(subst -,_,$*).py --json

docs: $(DONE)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "Site: site/index.html"

clean:
	rm -rf $(VENV) .venv-axolotl .venv-llama-factory build dist site src/*.egg-info .mypy_cache .ruff_cache .pytest_cache

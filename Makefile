# `make serve` and `make test` do all their own set-up; see README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# What llama.cpp is built for: cuda, metal or cpu. Without it, what it was built for before.
GPU ?= $(firstword $(shell cat $(VENV)/.llama 2>/dev/null) cpu)
SERVE_STAMP := $(VENV)/.installed-$(GPU)
TEST_STAMP := $(VENV)/.installed-test-$(GPU)
BUILT_FROM := build-requirements.lock pyproject.toml $(wildcard router/engine/*.c scripts/ggml/*)

# `git clean` takes away what was compiled here, but not the note that it was installed.
ifeq ($(wildcard router/engine/_compiled.so),)
$(shell rm -f $(VENV)/.installed*)
endif

# Trains probes in the tests. Not in the lock: which build of it suits depends on the machine.
TORCH := torch==2.13.0

.PHONY: serve test check lock clean

serve: $(SERVE_STAMP)
	$(BIN)/router serve $(ARGS)

test: $(TEST_STAMP)
	scripts/ensure-redis.sh
	scripts/ensure-chromium.sh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --cov --cov-report=term $(ARGS)

# Fast answers while working: no model, no servers, no coverage.
check: $(TEST_STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/uq tests/calibration

# Versions and hashes of everything that both commands install.
# With their extras: pip takes `coverage[toml]` for another package than a pinned `coverage`, and
# refuses the lock as soon as there is a newer release.
COMPILE = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-strip-extras \
	--no-emit-index-url --no-annotate --custom-compile-command "make lock" --upgrade
lock: $(VENV)/bin/python
	$(BIN)/pip install --quiet uv
	$(COMPILE) build-requirements.in --output-file build-requirements.lock
	$(COMPILE) --constraint build-requirements.lock pyproject.toml --output-file requirements.lock
	$(COMPILE) --constraint requirements.lock --extra test pyproject.toml \
		--output-file requirements-test.lock

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(SERVE_STAMP): requirements.lock $(BUILT_FROM) | $(VENV)/bin/python
	rm -f $(VENV)/.installed*
	GPU=$(GPU) scripts/install.sh $(BIN)/python requirements.lock
	touch $@

$(TEST_STAMP): requirements-test.lock clients/python/pyproject.toml $(BUILT_FROM) | $(VENV)/bin/python
	rm -f $(VENV)/.installed*
	GPU=$(GPU) scripts/install.sh $(BIN)/python requirements-test.lock clients/python
	$(BIN)/pip install --quiet $(TORCH)
	touch $@ $(SERVE_STAMP)

clean:
	rm -rf $(VENV) build dist .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis

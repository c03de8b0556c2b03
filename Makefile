# Every verb works in a fresh clone: it makes .venv first.
#   PYTHON=python3.12   another interpreter, 3.11 or newer
#   TORCH_INDEX=URL     the package index to take PyTorch from, such as the one of its CPU wheels
PYTHON ?= python3
TORCH_INDEX ?=
SECONDS ?= 300
BIN := .venv/bin
PIP = $(BIN)/pip install --quiet --disable-pip-version-check
SERVE := .venv/serve.stamp
DEV := .venv/dev.stamp
RAY := .venv/ray.stamp

.PHONY: run test test-cluster check format train download export evaluate bench bench-micro bench-http bench-compare bench-traffic bench-polling bench-protocol bench-growth bench-stages bench-scale bench-overload fuzz mutations soak clean

run: $(SERVE)
	$(BIN)/python -m cartpole.serve

# With CARTPOLE_TEST_ALL=1, as in CI, coverage is measured too, which takes half as long again.
PYTEST = -m pytest -n 4 --dist worksteal
test: $(DEV)
ifdef CARTPOLE_TEST_ALL
	$(BIN)/coverage erase
	$(BIN)/coverage run $(PYTEST)
	$(BIN)/coverage combine -q && $(BIN)/coverage report
else
	$(BIN)/python $(PYTEST)
endif

# A cluster of two Ray nodes on this machine, whose nodes are killed and halted.
test-cluster: $(RAY)
	$(BIN)/python -m pytest -q tests/cluster

check: $(DEV)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV)
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

train: $(DEV)
	$(BIN)/python tools/train_model.py

download: $(DEV)
	$(BIN)/python tools/download_model.py

export: $(DEV)
	$(BIN)/python tools/export_model.py

evaluate: $(DEV)
	$(BIN)/python tools/evaluate.py

bench: $(SERVE)
	PYTHON=$(BIN)/python bench/bench.sh

bench-micro: $(DEV)
	$(BIN)/python -m bench.record micro

bench-compare: $(DEV)
	$(BIN)/python -m bench.traffic --kind 'Kept connections'

bench-traffic: $(DEV)
	$(BIN)/python -m bench.traffic

bench-polling: $(DEV)
	$(BIN)/python -m bench.polling

bench-protocol: $(DEV)
	$(BIN)/python -m bench.protocol

bench-growth: $(RAY)
	$(BIN)/python -m bench.growth

bench-stages: $(DEV)
	$(BIN)/python -m bench.stages

bench-scale: $(DEV)
	$(BIN)/python -m bench.scale

bench-overload: $(DEV)
	$(BIN)/python -m bench.overload

bench-http: $(DEV)
	$(BIN)/python -m bench.record end_to_end

# SECONDS of each target.
fuzz: $(DEV)
	$(BIN)/pip install -q 'atheris>=3,<4'
	for target in query connection model agent; do $(BIN)/python -m tests.fuzz.run $$target $(SECONDS) || exit 1; done

# Faults put into a copy of the service, each of which a test must see.
mutations: $(DEV)
	$(BIN)/python -m tests.mutations

soak: $(DEV)
	$(BIN)/python -m bench.soak

clean:
	rm -rf .venv bench/results bench/.peers dist .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis tests/fuzz/.found

# PyTorch first and on its own, so that nothing else chooses its version.
.venv/torch.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cartpole needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ": try make PYTHON=python3.11")'
	@echo "cartpole: making .venv and installing PyTorch 2.13.0, once; this may take minutes"
	@$(PYTHON) -m venv .venv && $(PIP) torch==2.13.0 $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) && touch $@

$(SERVE): .venv/torch.stamp pyproject.toml
	@echo "cartpole: installing what serving needs"
	@$(PIP) -e . && touch $@

$(DEV): .venv/torch.stamp pyproject.toml
	@echo "cartpole: installing the tools for development"
	@$(PIP) -e '.[dev]' && touch $@ $(SERVE)

$(RAY): $(DEV) pyproject.toml
	@echo "cartpole: installing Ray"
	@$(PIP) -e '.[dev,ray]' && touch $@

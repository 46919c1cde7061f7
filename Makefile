# make demo   set up, refine simulated particles, show where the report is
# make test   set up, run the tests but the slow ones; TESTS="slow or not slow" runs all, as CI does
# make check  what CI checks besides the tests: formatting, lint, types, layers
# make fuzz   try damaged files and odd values, and kill runs at every point; FUZZ=N so many of each
# make scipion  set up Scipion's packages apart from ours, run the tests of its plugin
# make bench  measure the kernels and a small refinement on this machine

PYTHON ?= python3
FUZZ ?= 2000
FUZZED := tests/robustness tests/formats/test_damaged_files.py tests/interface/test_result_folders.py \
	tests/behaviour/test_kill_points.py \
	tests/behaviour/test_stops.py tests/behaviour/test_two_processes.py tests/behaviour/test_full_disk.py
TESTS ?= not slow
# Two files at a time: most tests compute in one or two threads, and those of a file share runs.
# In the order of their names, which has the long ones first and many short ones last.
PYTEST_OPTIONS ?= -n 2 --dist loadfile --no-loadscope-reorder
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SCIPION := plugins/scipion/.venv
SCIPION_READY := $(SCIPION)/.ready

.PHONY: demo test check fuzz scipion bench clean

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $(READY)

demo: $(READY)
	rm -rf demo-run
	$(BIN)/cryorefine demo --output demo-run

test: $(READY)
	$(BIN)/python -m pytest -m "$(TESTS)" $(PYTEST_OPTIONS)

check: $(READY)
	$(BIN)/ruff format --check src tests benchmarks plugins
	$(BIN)/ruff check src tests benchmarks plugins
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

fuzz: $(READY)
	CRYOREFINE_FUZZ=$(FUZZ) $(BIN)/python -m pytest $(FUZZED) $(PYTEST_OPTIONS)

$(SCIPION_READY): plugins/scipion/requirements.txt plugins/scipion/pyproject.toml
	$(PYTHON) -m venv $(SCIPION)
	$(SCIPION)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(SCIPION)/bin/python -m pip install --quiet --requirement plugins/scipion/requirements.txt
	$(SCIPION)/bin/python -m pip install --quiet --no-deps --editable plugins/scipion
	touch $(SCIPION_READY)

scipion: $(READY) $(SCIPION_READY)
	CRYOREFINE_BIN=$(abspath $(BIN)/cryorefine) $(SCIPION)/bin/python plugins/scipion/run_tests.py $(SCIPION)/home

bench: $(READY)
	$(BIN)/python benchmarks/kernels.py
	$(BIN)/python benchmarks/compare.py phantom --symmetry d2 --no-relion

clean:
	rm -rf $(VENV) $(SCIPION) demo-run .pytest_cache .ruff_cache .import_linter_cache

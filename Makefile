# Every target does its own set-up from a bare clone.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
unexport PYTHONDONTWRITEBYTECODE  # or each of hundreds of processes compiles everything anew

.PHONY: demo test test-isa verify oldest torture lint docs bench peers clean
demo: $(STAMP)  ## six families and two yardsticks on real digits, ranked, with a report in runs/demo
	$(BIN)/likeli demo --out runs/demo --overwrite

test: $(STAMP) lint  ## style, types and the default test suite
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" --durations 25 --durations-min 3

BY_PANDAS := tests/data tests/spaces tests/estimator/test_every_estimator.py tests/cli/test_h5ad.py
BY_PANDAS += "tests/test_docs.py::test_every_block_runs[counts]" "tests/cli/test_help_examples.py::test_every_example_runs[encode]"
OLDEST := .venv-oldest/bin/python -m pytest -n 2 --dist worksteal -m "not slow" $(BY_PANDAS)
oldest: .venv-oldest/.installed  ## tables under the oldest pandas that is supported, and the extras that `dev` has not: AnnData, transformers
	$(OLDEST)

CAP := 45
verify: $(STAMP) .venv-oldest/.installed  ## the long checks too, for at most 45 minutes, and what share of each long form that was
	began=$$(date +%s) && $(OLDEST) && $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" && \
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow --parts --minutes $$(($(CAP) - ($$(date +%s) - began) / 60))

TORTURED := tests/checkpoint tests/training/test_resume.py tests/training/test_processes.py tests/training/test_soak.py
TORTURED += tests/data/test_bad_inputs.py tests/data/test_streams.py tests/cli/test_signals.py tests/training/test_real_tables.py
torture: $(STAMP)  ## kills, mutations, failing file calls, endless repetition: hours, or a part of them with SHARE=0.1
	LIKELI_TORTURE=$(or $(SHARE),1) $(BIN)/python -m pytest -n 2 -m slow $(TORTURED)

test-isa: $(STAMP)  ## what depends on training, under each instruction set of this processor
	$(BIN)/python tests/isa.py -n 2 -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(STAMP)  ## docs/_build/index.html
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[docs]"
	$(BIN)/sphinx-build -q -W -b html docs docs/_build

bench: $(STAMP) peers  ## ours beside named peers, one run
	$(BIN)/python -m benchmarks

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

.venv-oldest/.installed: pyproject.toml tests/oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install -q --disable-pip-version-check -c tests/oldest.txt -e ".[dev,anndata,captions]"
	touch $@

peers: .venv-peers/.installed
.venv-peers/.installed: benchmarks/peers.txt benchmarks/peers-no-deps.txt constraints.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install -q --disable-pip-version-check -c constraints.txt -r benchmarks/peers.txt
	.venv-peers/bin/pip install -q --disable-pip-version-check --no-deps -r benchmarks/peers-no-deps.txt
	touch $@

clean:
	rm -rf $(VENV) .venv-peers .venv-oldest runs .pytest_cache .mypy_cache .ruff_cache

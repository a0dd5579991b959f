# make run: set-up and the main job; make test: set-up and the tests. Everything lives in $(VENV).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OFFLINE := $(if $(WHEELHOUSE),--no-index --find-links $(WHEELHOUSE))

.PHONY: help setup run test test-long faults perf gpu reference pages simulation lock docs wheelhouse clean same-python

help:  ## show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# An environment that is there is taken as it is; one of another Python than asked for is refused.
ASKED := $(filter command environment,$(firstword $(origin PYTHON)))
environment = @$(1)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(1)
same-python:
	@if test -n "$(ASKED)" && test -x $(BIN)/python && test "$$($(BIN)/python -V)" != "$$($(PYTHON) -V)"; then \
	echo "error: $(VENV) holds $$($(BIN)/python -V) and not $$($(PYTHON) -V): remove it (rm -r $(VENV))" >&2; exit 1; fi

# The versions in constraints.txt are those that this project is tested with; ranges stand in pyproject.toml.
$(READY): pyproject.toml constraints.txt | same-python
	$(call environment,$(VENV))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(OFFLINE) -c constraints.txt -e '.[test]'
	touch $@

setup: $(READY)  ## create the environment

run: $(READY)  ## a small real sweep on the embedded aspirin data, its figures, tables and report
	$(BIN)/python -m bench.run -m +sweep=demo
	$(BIN)/python -m analysis.build

test: $(READY)  ## every test that this machine can run
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not long"

# graph-pes and sevenn need versions of e3nn that exclude each other: an environment for each
$(VENV)-graph-pes/.ready: EXTRAS = graph-pes,chgnet,soap
$(VENV)-sevennet/.ready: EXTRAS = sevennet,soap
$(VENV)-%/.ready: pyproject.toml constraints.txt
	$(call environment,$(VENV)-$*)
	$(VENV)-$*/bin/python -m pip install --quiet --disable-pip-version-check $(OFFLINE) -c constraints.txt \
		-e '.[test,$(EXTRAS)]'
	touch $@

test-long: $(READY) $(VENV)-graph-pes/.ready $(VENV)-sevennet/.ready  ## the tests that take longer, and those of the extras
	$(BIN)/python -m pytest -m long
	$(VENV)-graph-pes/bin/python -m pytest tests/bench/test_graph_pes.py tests/bench/test_pretrained.py
	$(VENV)-sevennet/bin/python -m pytest tests/bench/test_pretrained.py

SEED ?= 0
faults: $(READY)  ## campaigns of faults: signals here and on SLURM, damaged files, kills; SEED=1 draws others
	PYTHONPATH=tests $(BIN)/python -m tests.campaigns.kills merge --count 100 --seed $(SEED)
	PYTHONPATH=tests $(BIN)/python -m tests.campaigns.kills prepare --count 100 --seed $(SEED)
	PYTHONPATH=tests $(BIN)/python -m tests.campaigns.damage --count 200 --seed $(SEED)
	PYTHONPATH=tests $(BIN)/python -m tests.campaigns.signals --count 400 --seed $(SEED)
	PYTHONPATH=tests $(BIN)/python -m tests.campaigns.signals --slurm --count 40 --seed $(SEED)

perf: $(READY)  ## benchmarks of training, features, selections and scaling: tables in results/perf
	$(BIN)/python -m tests.perf.features
	$(BIN)/python -m tests.perf.training
	$(BIN)/python -m tests.perf.scaling
	$(BIN)/python -m tests.perf.selections

MINUTES ?= 25
gpu: $(READY)  ## all that a machine with a GPU can show in MINUTES=25; DRY=1 on a CPU: results/gpu/report.md
	$(BIN)/python -m tests.perf.gpu --minutes $(MINUTES) $(if $(DRY),--dry)

reference: $(READY)  ## make tables, figures and pages of results/reference again from their records
	for name in aspirin tio2 qm9; do $(BIN)/python -m analysis.build --results results/reference/$$name \
		--output results/reference/$$name && rm -r results/reference/$$name/data || exit 1; done
	$(BIN)/python -m analysis.build --results results/reference/fidelity --output results/reference/fidelity
	cd results/reference/fidelity && rm -r data figures report.html
	$(BIN)/python -m analysis.build --results results/reference/potentials --output results/reference/potentials
	cd results/reference/potentials && rm -r data report.html && find figures ! -name 'learning_curves_*_force.*' -type f -delete
	$(BIN)/python -m analysis.build --data results/reference/demo/data --output results/reference/demo --format svg
	$(BIN)/python -m analysis.build --data results/reference/demo/data --output results/reference/demo \
		--figures learning_curves_demo_force
	rm results/reference/demo/report.html
	$(BIN)/python -m analysis.build --output results/reference --page --results results/reference/aspirin results/reference/tio2 \
		results/reference/qm9 results/reference/fidelity

pages: $(READY)  ## make docs/algorithms and docs/benchmark again from results/reference
	$(BIN)/python -m analysis.pages

simulation: $(READY)  ## how often verdicts are right and wrong: the table in docs/statistics.md
	$(BIN)/python -m tests.analysis.simulation --write

docs: $(READY)  ## this documentation as a site: results/site/index.html
	$(BIN)/python -m sphinx -W --keep-going -q -c docs -d results/site/.doctrees . results/site

lock:  ## write constraints.txt anew for every Python and system; LOCK=--upgrade takes the newest versions
	$(call environment,$(VENV))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra test --no-annotate --no-emit-index-url \
		--custom-compile-command "make lock" $(LOCK) --output-file constraints.txt pyproject.toml

wheelhouse: $(READY)  ## every package as a file in wheelhouse/; without internet: make setup WHEELHOUSE=wheelhouse
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --wheel-dir wheelhouse -c constraints.txt \
		'.[test]' hatchling hatch-vcs editables

clean:  ## remove the environment, runs and what was drawn from them; results/reference stays
	rm -rf $(VENV) $(VENV)-graph-pes $(VENV)-sevennet
	rm -rf results/runs results/initial results/launch results/analysis results/multirun results/site

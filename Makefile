# make demo   train a small connector on Flatland, draw with it, score it: demo/report.html
# make test   format, lint, types, tests
# make soak   every case of the adapters' contracts, of which test runs one a family; a training killed at fifty points, an evaluation at twenty
# Each does all set-up on a fresh machine, and nothing twice.

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
CODE := bridge adapters training eval scripts
PYTEST := $(VENV)/bin/python -m pytest --numprocesses=auto --dist=loadfile

# The tests' models are tiny: a thread each, and a process a core.
test soak: export OMP_NUM_THREADS ?= 1

.PHONY: demo test soak

demo: $(INSTALLED)
	$(VENV)/bin/metabridge demo --out demo

# Coverage is the bridge's by its own tests: taken over all of them, its tracing would be a quarter of the time.
test: $(INSTALLED)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	mkdir -p .typing/metabridge
	for folder in $(CODE); do ln -sfn ../../$$folder .typing/metabridge/$$folder; done
	MYPYPATH=.typing $(VENV)/bin/mypy $(CODE:%=-p metabridge.%)
	$(PYTEST) tests/bridge --cov=metabridge.bridge --cov-report=term --cov-fail-under=95
	$(PYTEST) --ignore=tests/bridge --durations=10

soak: $(INSTALLED)
	$(PYTEST) --durations=10 -m 'soak or not soak' tests/adapters tests/training tests/scripts/test_eval_kills.py

$(INSTALLED): pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("metabridge needs Python 3.11 or newer; make PYTHON=/path/to/it")'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

# `make demo` and `make test` are all there is to set up: each makes the environment in .venv where it is missing or
# older than what it is made from. PYTHON chooses the interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
VENV_PY := $(VENV)/bin/python
PIP := $(VENV_PY) -m pip --disable-pip-version-check
STAMP := $(VENV)/.made
SOURCES := setup.py pyproject.toml constraints.txt $(shell find csrc -type f 2>/dev/null)

.PHONY: demo test test-kernels env lint zoo clean help

help:
	@echo "make demo    train a small BlendMask here and now, evaluate it, draw what it predicts;"
	@echo "             with PHOTO=FILE also what a trained model of people predicts on it"
	@echo "make test    the test suite"
	@echo "make test-kernels  the CUDA kernels on the CPU, in every variant of tests/cuda_on_cpu"
	@echo "make env     the environment alone, in $(VENV)"
	@echo "make lint    ruff, where it is installed"
	@echo "make zoo     MODEL_ZOO.md from the configs and the measurements"
	@echo "make clean   remove the environment and everything that was built"

demo: $(STAMP)
	$(VENV_PY) -m adet_ext quick
	@if [ -n "$(PHOTO)" ]; then $(VENV_PY) -m adet_ext demo $(PHOTO) --output demo_output/people; fi

test: $(STAMP)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive MPLBACKEND=Agg $(VENV_PY) -m pytest -q -n $(WORKERS) --durations=5

test-kernels: $(STAMP)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(VENV_PY) -m tests.cuda_on_cpu.whole

env: $(STAMP)
	$(VENV_PY) -m adet_ext env

# Torch comes first, so that the operators are compiled against the torch they will run with. Without isolation, the
# exact versions of the build's own tools are the ones in constraints.txt too.
$(STAMP): $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "adet_ext needs Python 3.10 or later; say which: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt --upgrade pip setuptools wheel ninja
	$(PIP) install -q -c constraints.txt torch torchvision
	$(PIP) install -q -c constraints.txt --no-build-isolation -e '.[test]'
	@cat adet_ext/_build.txt
	@touch $@

lint:
	@if $(VENV_PY) -m ruff --version >/dev/null 2>&1; then $(VENV_PY) -m ruff check . && $(VENV_PY) -m ruff format --check .; \
	elif command -v ruff >/dev/null; then ruff check . && ruff format --check .; \
	else echo "ruff is not installed; pip install ruff"; fi

zoo: $(STAMP)
	$(VENV_PY) tools/make_model_zoo.py

clean:
	rm -rf $(VENV) build dist *.egg-info adet_ext/_C.so adet_ext/_C.pyd adet_ext/_build.txt demo_output
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

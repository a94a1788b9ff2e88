# Every target sets itself up from a fresh clone: it finds a Python, makes .venv and installs into it once.
#
#   make demo    train small models with an injected task on this machine, and write a report
#   make test    the test suite; ARGS="-k plan" goes to pytest, JOBS=2 uses two processes
#   make test-slurm  the sweep and the commands of docs/cluster.md on a real SLURM, which it starts (slurmctld and munged)
#   make quick   the fast tests, to run while you write
#   make env     only what all of these begin with: .venv, and the installation into it
#   make coverage  the test suite, and the lines that it does not reach (in this process, not in ranks and commands)
#   make lint    ruff and pyright
#   make docs    the documentation site, in site/; fails on a broken link
#   make bench   costs against plain ai2-olmo; ARGS goes to `python -m benchmarks`
#   make gpu     prove and measure one GPU in ten minutes, and write docs/gpu.md; ARGS="--device cpu --out /tmp" tries it
#   make test-core   the tests of what needs no ai2-olmo, and of OLMo-core 3, in an environment without ai2-olmo and with
#                numpy 2: .venv-core (`make core-env` makes it)
#   make test-olmo-core   of these, the tests of OLMo-core 3 alone
#   make transformers-4  transformers 4, for the test that it reads exports; without it that test is skipped
#   make clean   remove .venv and caches, but nothing in runs/
#
# PYTHON=/path/to/python chooses the interpreter of .venv.

CANDIDATES := $(or $(PYTHON),python3.11 python3.12 python3.10 python3 python)
ARGS ?=
READY := .venv/.installed
# Compiling all 25,000 modules would take minutes; a tenth of them is ever imported.
PIP := --quiet --disable-pip-version-check --no-compile

# A Python on PATH may not work: a version manager's shim may have nothing behind it, and some distributions
# ship Python without what a virtual environment needs. So each candidate is run.
SUITABLE := import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
FIND_PYTHON := for python in $(CANDIDATES); do \
  if "$$python" -c "$(SUITABLE)" >/dev/null 2>&1; then echo "$$python"; break; fi; done
MISSING = no Python 3.10, 3.11 or 3.12 with venv and pip here (tried: $(CANDIDATES)); install one, \
  or say where it is with PYTHON=/path/to/python

# One thread per process, since the tests already fill the cores with processes.
test test-slurm quick coverage: export OMP_NUM_THREADS := 1
# And compiled modules are kept, whatever the shell says, since tests start many a process.
test test-slurm quick coverage: export PYTHONDONTWRITEBYTECODE :=
# One process more than a small machine has cores, since tests of signals wait for others. The tests of a file stay in
# one process, which makes what they share once.
test coverage: JOBS ?= 3
quick: JOBS ?= 2
lint: export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: env demo test test-slurm quick coverage lint docs bench gpu core-env test-core test-olmo-core transformers-4 clean
demo: $(READY)
	.venv/bin/olmo-inject demo $(ARGS)

env: $(READY)

test: .venv/.compiled
	.venv/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slurm" $(ARGS)

test-slurm: .venv/.compiled
	.venv/bin/python -m pytest -n 2 --dist loadfile -m slurm tests/launch $(ARGS)

quick: $(READY)
	.venv/bin/python -m pytest -n $(JOBS) --dist worksteal -m "not slow and not slurm and not cuda" $(ARGS)

coverage: $(READY)
	.venv/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slurm" --cov --cov-report term:skip-covered $(ARGS)

lint: $(READY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright

docs: $(READY)
	.venv/bin/python -m pip install $(PIP) -c constraints.txt -e '.[dev,docs]'
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet --site-dir site

bench: $(READY)
	.venv/bin/python -m benchmarks $(ARGS)

gpu: $(READY)
	.venv/bin/python -m benchmarks gpu $(ARGS)

# ai2-olmo 0.6.0 pins ai2-olmo-core 0.1.0, so OLMo-core 3 has an environment of its own, and this project in it
# without ai2-olmo. It is also where the core is tested with numpy 2.
CORE_TESTS := tests/adapters/test_olmo_core.py tests/adapters/test_pytorch.py tests/injection tests/tasks/test_registry.py \
  tests/runs/test_evidence.py tests/runs/test_metrics.py tests/corpus/test_sources.py \
  tests/theory/test_closed_forms.py tests/theory/test_training.py tests/theory/test_mixture.py tests/utils/test_extras.py
core-env: .venv-core/.installed

# Put before the packages of .venv, of which it uses the others.
transformers-4: .transformers-4/.installed

.transformers-4/.installed: $(READY)
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target .transformers-4 \
	  transformers==4.57.6 tokenizers==0.22.2 huggingface-hub==0.36.2
	@touch $@

.venv-core/.installed: pyproject.toml constraints-olmo-core.txt
	$(eval FOUND := $(shell $(FIND_PYTHON)))
	$(if $(FOUND),,$(error $(MISSING)))
	"$(FOUND)" -m venv .venv-core
	.venv-core/bin/python -m pip install $(PIP) -c constraints-olmo-core.txt \
	  -e '.[olmo-core]' pytest pytest-timeout hypothesis beartype
	@touch $@

test-core test-olmo-core: export OMP_NUM_THREADS := 1
test-core test-olmo-core: export PYTHONDONTWRITEBYTECODE :=
test-core: .venv-core/.installed
	.venv-core/bin/python -m pytest $(CORE_TESTS) $(ARGS)

test-olmo-core: .venv-core/.installed
	.venv-core/bin/python -m pytest tests/adapters/test_olmo_core.py $(ARGS)

clean:
	rm -rf .venv .venv-core .transformers-4 .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What tests import, compiled once; on a fresh clone each of their processes would compile all of it at the same time.
# A test that cannot be imported is the tests' to report.
.venv/.compiled: $(READY)
	@PYTHONDONTWRITEBYTECODE= .venv/bin/python -m pytest -q --collect-only >/dev/null || true
	@touch $@

# One pip command for everything, since a second one may change the versions of the first (see constraints.txt).
$(READY): pyproject.toml constraints.txt
	$(eval FOUND := $(shell $(FIND_PYTHON)))
	$(if $(FOUND),,$(error $(MISSING)))
	"$(FOUND)" -m venv .venv
	.venv/bin/python -m pip install $(PIP) -c constraints.txt -e '.[dev]'
	@PYTHONDONTWRITEBYTECODE= .venv/bin/python -c "import olmo_inject.training.run" # compiled once, before many import it
	@touch $@

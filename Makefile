# make install · make demo · make test · make test-newest · make bench · make torture · make style
# Each makes the environment it needs, .venv or .venv-newest, when that is missing or stale.
PYTHON ?= python3
PY := .venv/bin/python
NEWEST := .venv-newest/bin/python
# what make test-newest runs; .ci/run names a part of it
TESTS ?= tests
export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || echo 2)
export TOKENIZERS_PARALLELISM := false
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: install demo test test-newest test-slow matrix bench torture style imports

# .venv/demo is what runs the recipes; .venv/ready adds to it what tests them.
# torch first and by exact version: with it in place, no range asks for a build that brings
# gigabytes of GPU libraries
.venv/demo: constraints.txt
.venv-newest/ready: constraints-newest.txt
.venv/demo: EXTRA := demo
.venv-newest/ready: EXTRA := dev
.venv/demo .venv-newest/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	@echo 'installing into $(@D): some minutes, quiet until it is done'
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet "$$(grep '^torch==' $(filter %.txt,$^))"
	$(@D)/bin/python -m pip install --quiet --constraint $(filter %.txt,$^) --editable '.[$(EXTRA)]'
	touch $@

.venv/ready: .venv/demo
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

install: .venv/demo
	@echo 'installed in .venv; type: source .venv/bin/activate'

demo: .venv/demo
	PATH="$(CURDIR)/.venv/bin:$$PATH" bash recipes/demo.sh

test: imports
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PY) -m pytest -q -m "not slow" -n 2 --dist loadfile

# the newest TRL has no PPOTrainer of its own, which the stock tests compare ours with
test-newest: .venv-newest/ready
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(NEWEST) -m pytest -q -m "not slow and not stock" -n 2 --dist loadfile $(TESTS)

test-slow: .venv/ready
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PY) -m pytest -q -m slow

matrix: .venv/ready
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PY) -m pytest -q -m matrix

bench: .venv/ready
	for b in prompts sft reward ppo; do $(PY) benchmarks/$$b.py || exit 1; done

# every stage killed, damaged, out of disk and run twice: 10 to 15 minutes; STAGE="sft ppo" for these
torture: .venv/ready
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PY) benchmarks/torture.py $(if $(STAGE),--stage $(STAGE))

# the directions between the packages: [tool.importlinter] in pyproject.toml
imports: .venv/ready
	.venv/bin/lint-imports --no-logo --no-cache

style: imports
	$(PY) -m ruff check . && $(PY) -m ruff format --check .

# make demo · make test · make bench · make style   (each makes .venv by itself when it is missing or stale)
PYTHON ?= python3
PY := .venv/bin/python
export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || echo 2)
export TOKENIZERS_PARALLELISM := false
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: demo test test-slow matrix bench style

# torch first and by exact version: with it in place, no range asks for a build that brings gigabytes of GPU libraries
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/ready
	PATH="$(CURDIR)/.venv/bin:$$PATH" bash recipes/demo.sh

test: .venv/ready
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PY) -m pytest -q -m "not slow" -n 2 --dist loadfile

test-slow: .venv/ready
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PY) -m pytest -q -m slow

matrix: .venv/ready
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PY) -m pytest -q -m matrix

bench: .venv/ready
	for b in prompts reward ppo; do $(PY) benchmarks/$$b.py || exit 1; done

style: .venv/ready
	$(PY) -m ruff check . && $(PY) -m ruff format --check .

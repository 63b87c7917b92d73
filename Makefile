# Every target works alone on a fresh clone of a machine that has Python 3.10 or newer and make.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
OLDEST := 4.46.3
PROFILE ?= tiny

.PHONY: help setup demo build test test-all test-min lint bench release site clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

# torch and setuptools first: the first so that nothing resolves to a larger build, the second to build the package itself
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt torch setuptools
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e ".[dev]"
	touch $(READY)

setup: $(READY)  ## .venv with everything in it

demo: setup  ## build, run the worked solutions on the real model, grade a sample class
	$(PY) -m lora_ref.assets encoder reviews mnist
	$(PY) -m autograder demo

build: setup  ## make the notebooks from the masters
	$(PY) -m autograder build

# Tests run beside each other: there, threads that spin while they wait cost several times the work itself.
test test-all test-min: export OMP_WAIT_POLICY ?= PASSIVE

test: setup  ## the test suite
	$(PY) -m pytest -n auto --dist loadfile

test-all: setup  ## the test suite with the slow tests
	$(PY) -m pytest -m "slow or not slow" -n auto --dist loadfile

lint: setup  ## style, formatting, and whether the notebooks are what the masters make
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m autograder build --check

bench: setup  ## each claim about speed and memory, both sides in one run
	$(PY) -m lora_ref.assets encoder reviews mnist
	$(PY) -m benchmarks

release: setup  ## the students' bundle
	$(PY) -m autograder release

site: setup  ## the course's site in build/site, executed on the tiny profile (PROFILE=laptop: the published one)
	$(if $(filter laptop,$(PROFILE)),$(PY) -m lora_ref.assets encoder reviews mnist)
	LORA_PROFILE=$(PROFILE) $(PY) -m sphinx -q -W --keep-going -b html docs build/site
	@echo "open build/site/index.html"

test-min:  ## the tests that touch transformers, on the oldest release that is supported (an environment of its own)
	$(PYTHON) -m venv .venv-min
	grep -vE '^(accelerate|datasets|fsspec|hf-xet|httpcore2|httpx2|huggingface_hub|tokenizers|transformers)==' \
		constraints.txt > .venv-min/constraints.txt
	echo "transformers==$(OLDEST)" >> .venv-min/constraints.txt
	.venv-min/bin/python -m pip install --quiet -c .venv-min/constraints.txt torch setuptools
	.venv-min/bin/python -m pip install --quiet -c .venv-min/constraints.txt --no-build-isolation -e ".[dev]"
	.venv-min/bin/python -m pytest -n auto --dist loadfile --ignore tests/test_project.py

clean:  ## what the other targets made, but for the environment
	rm -rf build dist docs/stages autograded feedback submitted gradebook.db *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# `make study` and `make test` need Python 3.11 and make; everything else comes with them.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/bundled
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
LOCK := pip-compile --quiet --generate-hashes --strip-extras --no-header --no-annotate --no-emit-index-url \
	--no-emit-find-links --no-emit-trusted-host --unsafe-package torch --build-deps-for editable \
	--constraint constraints.txt pyproject.toml --output-file

WITH_TESTS := .[dev,types,docs,lm-eval,notebook,mlflow,serve,simulate,remote,ray,otel,ladder]

# Every package but torch, whose build depends on the machine, must have a hash that requirements/ knows.
# An index that builds packages itself has others: HASHES=no goes by versions alone.
HASHES ?= yes
ifeq ($(HASHES),no)
install = $(PIP) install --quiet --constraint constraints.txt --editable '$(2)'
else
install = $(PIP) install --quiet --no-deps --require-hashes --requirement requirements/$(1).txt && \
	$(PIP) install --quiet --no-build-isolation --constraint constraints.txt --editable '$(2)' || \
	{ echo "not installed. Where an index builds packages itself, and so has other hashes: make HASHES=no" >&2; exit 1; }
endif

.PHONY: help study bench test lint types docs kernels tests wheel-test format lock picture report-picture clean

help:
	@echo "make study   run the study of the bundled models and print where its report is"
	@echo "make bench   how fast everything is, against plain decoding and transformers (about 4 minutes)"
	@echo "make test    the whole check: ruff, mypy, the documentation, and the tests with their coverage"
	@echo "make docs    build the documentation as a site, build/site/index.html"
	@echo "make wheel-test PYTHON=python3.12   install the wheel alone into a new environment of that Python, and try it"
	@echo "make format  put the code into the project's form"
	@echo "make picture make the picture of the README again; make report-picture the one of the report"
	@echo "make lock    write the hashes of all packages again, after constraints.txt has changed"
	@echo "make clean   remove the environment and what the tools left behind"

study: $(VENV)/.study
	$(BIN)/fsgen study --out $(OUT)

bench: $(VENV)/.study
	$(BIN)/python -m benchmarks.decoding
	$(BIN)/python -m benchmarks.study --sample 16

test: lint
	$(MAKE) --no-print-directory -j2 kernels types docs
	$(MAKE) --no-print-directory tests

lint: $(VENV)/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.test
	$(BIN)/mypy

# Compiled once here, beside what needs one core, and not by each process of the tests; int4 is not for every processor.
kernels: $(VENV)/.test
	for kind in float32 bfloat16 int8 int4; do OMP_NUM_THREADS=1 $(BIN)/fsgen generate 1 --method plain --max-tokens 1 \
		--weights $$kind > /dev/null 2>&1 || echo "kernels: none of $$kind here"; done

tests: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --cov -n auto --dist loadfile

docs: $(VENV)/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Without constraints and hashes: whatever pip finds for that Python, as a user would get it.
wheel-test:
	rm -rf build/wheel-test && mkdir -p build/wheel-test
	$(PYTHON) -m venv build/wheel-test/venv
	build/wheel-test/venv/bin/pip wheel --quiet --no-deps --wheel-dir build/wheel-test .
	build/wheel-test/venv/bin/pip install --quiet build/wheel-test/fsgen-*.whl
	cd build/wheel-test && venv/bin/fsgen --version && venv/bin/fsgen models && \
		venv/bin/fsgen generate "Question: 2 + 2?" --max-tokens 8 && \
		venv/bin/fsgen study --limit 2 --out study && test -s study/report.html

format: $(VENV)/.test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

picture: $(VENV)/.study
	$(BIN)/python examples/picture.py --out docs/generation.svg

report-picture: $(VENV)/.test
	$(BIN)/python examples/report_picture.py $(OUT)/report.html --out docs/report.png

lock:
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet pip-tools==7.6.2
	build/lock/bin/$(LOCK) requirements/study.txt
	build/lock/bin/$(LOCK) requirements/test.txt --extra dev --extra types --extra docs --extra lm-eval --extra notebook \
		--extra mlflow --extra serve --extra simulate --extra remote --extra ray --extra otel --extra ladder

clean:
	rm -rf $(VENV) build dist *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.study: pyproject.toml constraints.txt requirements/study.txt | $(BIN)/python
	@$(call install,study,.)
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt requirements/test.txt | $(BIN)/python
	@$(call install,test,$(WITH_TESTS))
	@touch $@ $(VENV)/.study

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "fsgen needs Python 3.11 or newer, and there is none" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("fsgen needs Python 3.11 or newer, not " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

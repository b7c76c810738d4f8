# make demo   the main job on the embedded pair; ends with where the report is
# make test   lint, types and all tests
# make bench  the figures of docs/performance.md
# make docs   the documentation as a site in build/site; links are checked
# make evidence  the figures of docs/evidence.md: hours, in pieces that go on where they were

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint bench evidence docs clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/safety-neurons run --out runs/demo --limit 32 --max-new-tokens 20 --shares 0.5%,2%,100%

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check src tests benchmarks examples evidence docs
	$(BIN)/ruff format --check src tests benchmarks examples evidence docs
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.run

evidence: $(VENV)/.installed
	$(BIN)/python -m evidence.run

$(VENV)/.installed-docs: $(VENV)/.installed
	$(INSTALL) --editable '.[docs]'
	touch $@

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

clean:
	rm -rf $(VENV) runs build dist

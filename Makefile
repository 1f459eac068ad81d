# Everything a newcomer needs: make search, make test, make check. Each sets up .venv first.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: search test check docs coverage clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch torchvision
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

search: .venv/installed  ## search on the built-in workload
	$(BIN)/flexor-search --budget 0.7bpw $(ARGS)

test: .venv/installed  ## the whole suite; what needs a GPU or a missing system package skips with a reason
	$(BIN)/python -m pytest $(ARGS)

check: .venv/installed  ## lint, types, walls between the storeys
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: .venv/installed  ## the pages of docs/ as a site in site/, to be read without a network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

coverage: .venv/installed  ## branch coverage of the three storeys that everything rests on
	$(BIN)/python -m pytest -q tests/codes tests/planning tests/packing $(ARGS) \
		--cov=flexor_search.codes --cov=flexor_search.planning --cov=flexor_search.packing --cov-branch \
		--cov-report=term --cov-fail-under=95

clean:
	rm -rf .venv

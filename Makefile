VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test check suite fuzz soak format bench clean

demo: $(VENV)/installed
	$(BIN)/logpx fit digits --out runs/demo --overwrite
	$(BIN)/logpx evaluate runs/demo
	$(BIN)/logpx report runs/demo

test: $(VENV)/tested
	$(MAKE) check suite

check: $(VENV)/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

suite: $(VENV)/tested
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

fuzz: $(VENV)/tested
	LOGPX_FUZZ_SECONDS=300 $(BIN)/python -m pytest tests/test_fuzz.py -s

soak: $(VENV)/installed
	$(BIN)/python benchmarks/soak.py --minutes 30

format: $(VENV)/tested
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/benched
	$(BIN)/python benchmarks/bench.py

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/tested: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

$(VENV)/benched: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@

clean:
	rm -rf $(VENV) runs build dist src/*.egg-info

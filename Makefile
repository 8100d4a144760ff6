# The two commands of the README need nothing set up before: each makes and uses its own virtual environment in .venv.
#   make demo       build, train NoProp on the embedded digits, table and figure
#   make test       build, run the tests
# For developers:
#   make check      format, lint, types      make peers      against PyTorch (installs it)
#   make sanitize   the C core under ASan and UBSan       make wheel      wheel and sdist, tried in a fresh environment
#   make docs       the site, tutorials executed, into build/docs/html    make docs-links   its external links, too
#   make browser    the pages of `refimpl trace` in a real browser (installs Chromium by apt-get where there is none)
#   make clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
NATIVE := setup.py pyproject.toml $(wildcard native/*.py native/src/*.c native/include/*.h)
# quiet pip: its own version and location notices say nothing about refimpl
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check

.PHONY: demo test check peers sanitize browser wheel clean bench docs docs-links

# One thread for both paths: the images are so small that a second one does not help.
demo: $(VENV)/built
	OPENBLAS_NUM_THREADS=1 $(BIN)/refimpl run noprop --compare-backends --threads 1

test: $(VENV)/tested
	$(BIN)/python -m pytest -n $(CORES) --dist worksteal --ignore tests/peers

check: $(VENV)/checked
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror native/src/*.c native/include/*.h

peers: $(VENV)/tested
	$(PIP) torch==2.13.0
	$(BIN)/python -m pytest -n $(CORES) --dist worksteal tests/peers

sanitize: $(VENV)/tested
	$(PIP) 'setuptools>=77'
	REFIMPL_REQUIRE_NATIVE=1 REFIMPL_SANITIZE=1 REFIMPL_LEVELS=v3,v4 $(BIN)/python setup.py -q build \
		--build-lib build/sanitize --build-temp build/sanitize-objects
	rm -rf build/sanitize/tests build/sanitize/native
	cp -r tests native pyproject.toml build/sanitize/
	cd build/sanitize && export LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 && \
		../../$(BIN)/python -c 'import refimpl._native as n; assert "sanitize" in n.__file__, n.__file__' && \
		../../$(BIN)/python -m pytest -p no:cacheprovider -x -n $(CORES) tests/ops

browser: $(VENV)/tested
	$(PIP) 'playwright>=1.50'
	@for name in $(REFIMPL_BROWSER) chromium chromium-browser google-chrome google-chrome-stable chrome; do \
		command -v $$name > /dev/null && exit 0; done; \
		if command -v apt-get > /dev/null; then \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium > /dev/null; \
		else $(BIN)/playwright install chromium; fi
	REFIMPL_REQUIRE_BROWSER=1 $(BIN)/python -m pytest -n $(CORES) --dist worksteal -m browser tests/viz

wheel: $(VENV)/tested
	$(PIP) build
	rm -rf build/wheel-try dist
	$(BIN)/python -m build -q
	$(PYTHON) -m venv build/wheel-try
	build/wheel-try/bin/python -m pip install -q --disable-pip-version-check dist/*.whl
	cd build/wheel-try && bin/refimpl doctor && REFIMPL_ISA=v2 bin/refimpl run noprop --quick && \
		bin/refimpl tutorial gradients-by-hand --run && \
		bin/refimpl trace noprop --out trace.html && grep -q 'int RI(linear_backward)' trace.html
	@ls -l dist

docs: $(VENV)/documented
	$(BIN)/python docs/build.py

docs-links: $(VENV)/documented
	$(BIN)/python docs/build.py --check-links

bench: $(VENV)/built
	$(BIN)/refimpl bench

$(VENV)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "refimpl needs Python 3.10 or newer; make PYTHON=python3.12 ... chooses another one"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/built: $(VENV)/python $(NATIVE)
	$(PIP) -e .
	@touch $@

$(VENV)/tested: $(VENV)/built
	$(PIP) -e '.[test]'
	@touch $@

$(VENV)/checked: $(VENV)/built
	$(PIP) -e '.[check]'
	@touch $@

$(VENV)/documented: $(VENV)/built
	$(PIP) -e '.[docs]'
	@touch $@

clean:
	rm -rf build dist $(VENV) *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache refimpl/*.so

# Every target makes its own environment in .venv; PYTHON chooses the interpreter (3.10 to 3.13).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check clean

demo: .venv/.installed
	$(BIN)/python -m dualkd.export.demo --out build/demo

test: .venv/.installed
	$(BIN)/python -m pytest

# mypy and the import contracts do not follow an editable install, so they read a folder of links.
check: .venv/.installed
	mkdir -p build/types/dualkd
	ln -sfn ../../../daemon ../../../export ../../../train ../../../configs build/types/dualkd/
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=build/types $(BIN)/lint-imports

.venv/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "dualkd needs Python 3.10 or newer; choose one with make PYTHON=...")'
	$(PYTHON) -m venv .venv
	@echo "Installing into .venv; torch alone is several GB, so the first time takes minutes."
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build

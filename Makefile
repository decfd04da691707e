# make setup | demo | test | help. Set PYTHON to choose the interpreter: make setup PYTHON=python3.12
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
# Off-screen OpenGL for the egl backend; libglu1-mesa is for pyglet, which pyrender imports.
GL_PACKAGES := libegl1 libgl1 libgl1-mesa-dri libglu1-mesa

.DEFAULT_GOAL := help
.PHONY: help setup demo test

help:
	@echo "make setup   a ready .venv; OpenGL libraries through apt where that is allowed"
	@echo "make demo    set up, render aeroplanes, train, evaluate; results in demo/"
	@echo "make test    set up and run the tests"
	@echo "Settings: PYTHON=python3.12 for another interpreter. pip's own variables work as usual; point"
	@echo "PIP_EXTRA_INDEX_URL at PyTorch's CPU index to save some gigabytes where there is no NVIDIA GPU."

setup: $(READY)

demo: $(READY)
	$(PY) cli.py render demo/airplanes --category airplane --models 6000 --pairs-per-model 2
	$(PY) cli.py train demo/airplanes demo/run --preset cpu $(if $(wildcard demo/run/config.json),--resume)
	$(PY) cli.py eval demo/run demo/airplanes --out demo/eval

test: $(READY)
	$(PY) -m pytest -q tests

# Up to date as long as neither the requirements nor the pins have changed.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
	    { echo "error: $(PYTHON): needs Python 3.10 to 3.13; choose one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || .ci/system-packages python3-venv || \
	    { echo "error: $(PYTHON) has no venv module: install the package python3-venv"; exit 1; }
	@$(PYTHON) -c 'import ctypes; ctypes.CDLL("libEGL.so.1")' 2>/dev/null || .ci/system-packages $(GL_PACKAGES) || \
	    echo "note: going on without OpenGL; rendering uses Embree. Only --backend egl needs: $(GL_PACKAGES)"
	@echo "Installing Python packages into $(VENV); PyTorch is large, so this takes a while."
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --use-pep517 -c constraints.txt -e ".[test]"
	@# The PyOpenGL that pyrender requires does not work with Python 3.12 and later.
	@if $(PY) -c 'import sys; sys.exit(sys.version_info < (3, 12))'; then \
	    $(PY) -m pip install --quiet --disable-pip-version-check --no-deps PyOpenGL==3.1.10; fi
	@touch $@

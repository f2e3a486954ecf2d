# Every target creates .venv at the pinned versions, or reuses it.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: install wheel quickstart test thorough hostile lint bench gpu-check chaos cluster-test restart-test bucket-test hosts-test scale-test picture accuracy clean
.DELETE_ON_ERROR:

install: $(READY)

# Bytecode is compiled now: otherwise every Ray worker would compile torch for itself.
$(READY): pyproject.toml constraints.txt
	@echo "installing semigrid and its dependencies into $(VENV): about 9 GB, some minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode \
		--constraint constraints.txt --editable ".[dev]"
	@$(BIN)/python -c 'import platform; from importlib.metadata import version; \
		print("environment: $(VENV), Python %s, torch %s, ray %s" \
		% (platform.python_version(), version("torch"), version("ray")))'
	@touch $(READY)

# A wheel in dist/, to install semigrid anywhere. Files of an earlier build must not get into it, and
# ray up takes all of dist/ to the cluster.
wheel: $(READY)
	@rm -rf build dist
	@$(BIN)/uv build --quiet --wheel --out-dir dist
	@ls dist/*.whl

# The paper's grid on real handwritten digits: 12 cells, 4 controls, no download, results in results/.
quickstart: $(READY)
	$(BIN)/semigrid run grid/experiments/quickstart.yaml

# Ray-free tests first: they fail fast. Then those with Ray, on a small cluster for each core.
test: $(READY)
	$(BIN)/python -m pytest -q -m "not ray" --numprocesses=2 --dist=loadfile --durations=10
	$(BIN)/python -m pytest -q -m ray --numprocesses=2 --dist=loadfile --durations=10

# Ray-free tests with many more examples and PyTorch's real compiler: about half an hour.
thorough: $(READY)
	$(BIN)/python -m pytest -q -m "not ray" --numprocesses=2 --dist=loadfile --thorough

# Whatever strangers may send: the collection by real commands, and 500,000 damaged files: an hour.
hostile: $(READY)
	$(BIN)/python -m tests.hostile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	PYTHONPATH=$(CURDIR) $(BIN)/python -m tests.bench  # its Ray processes import from it

# What only a GPU can show, on one of them, within 8 minutes: numbers, speed, data, memory, resume.
# JSON: python -m tests.gpu --output FILE
gpu-check: $(READY)
	$(BIN)/python -m tests.gpu

# Twenty kills during a grid of ten cells, and the same numbers as without them; kills of a probe
# that makes features, and none made twice: about 20 minutes.
chaos: $(READY)
	$(BIN)/python -m tests.chaos
	$(BIN)/python -m tests.chaos.features

# The quickstart as a job on a real cluster of three nodes on this machine: a quarter of an hour.
cluster-test: $(READY)
	$(BIN)/python -m tests.cluster

# A job whose process is killed, then one whose head is replaced, followed by one command: some minutes.
restart-test: $(READY)
	$(BIN)/python -m tests.cluster.restarts

# The quickstart as a job on a bucket that fails, its process killed twice: some ten minutes.
bucket-test: $(READY)
	$(BIN)/python -m tests.cluster.bucket

# Hosts with networks of their own: one without the storage, one cut off for a minute. Some eight minutes.
hosts-test: $(READY)
	$(BIN)/python -m tests.cluster.hosts

# A small grid on a cluster whose autoscaler starts nodes from none, and ends them: a quarter of an hour.
# Alone: nothing else should use this machine, other Rays least of all.
scale-test: $(READY)
	$(BIN)/python -m tests.cluster.scale

# The README's picture of the report that the quickstart left, by Chromium.
picture: $(READY)
	$(BIN)/python -m tests.picture results/quickstart/report.html docs/report.png

# Three real sets from packages, with and without their pools: hours on two cores; resumable.
accuracy: $(READY)
	$(BIN)/python -m tests.accuracy

clean:
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# prefstream: `make demo` runs its main job, `make test` its tests. Each sets up what it needs, once.
#
# The set-up is a virtual environment in .venv, installed from requirements.lock. PYTHON names the
# interpreter to make it with; by default the first of python3.11, 3.12 and 3.13 that runs and for
# which pip finds a CPU torch.

PYTHON ?=
JOBS ?= 2
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-python check format lock chaos soak compose-test bench clean

demo: $(READY)  ## make real pairs on the toy model, in a few minutes; leaves demo-out/
	$(BIN)/prefstream demo

test: $(READY)  ## all tests, in JOBS processes; those that break things have the machine to themselves
	$(BIN)/pytest --numprocesses $(JOBS) --dist loadgroup --ignore tests/faults
	$(BIN)/pytest tests/faults

test-python:  ## the service's and the client's tests on another Python: the one that PYTHON names, or any
	scripts/test_python.sh "$(PYTHON)"

check: $(READY)  ## lint, types, format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

chaos: $(READY)  ## the queue's fault test, long
	PREFSTREAM_CHAOS_JOBS=20000 $(BIN)/pytest tests/faults/test_chaos.py --timeout 3600

soak: $(READY)  ## memory of every process while 100,000 jobs and 50,000 pictures go through
	$(BIN)/python -m tests.bench.soak soak

compose-test: $(READY)  ## docker compose up, for real; needs Docker, and some 10 GB
	PREFSTREAM_TEST_COMPOSE=1 $(BIN)/pytest tests/compose -s --timeout 3600

bench: $(READY)  ## print the benchmarks' tables; needs wrk, and installs the queue's rivals
	$(BIN)/pip install --quiet taskiq==0.13.0 taskiq-redis==1.2.4 pydocket==0.27.0
	$(BIN)/python -m tests.bench.queue
	$(BIN)/python -m tests.bench.accept
	$(BIN)/python -m tests.bench.depth
	VLLM_LOGGING_LEVEL=ERROR HF_HUB_OFFLINE=1 VLLM_CPU_KVCACHE_SPACE=1 $(BIN)/python -m tests.bench.swap
	VLLM_LOGGING_LEVEL=ERROR HF_HUB_OFFLINE=1 VLLM_CPU_KVCACHE_SPACE=1 $(BIN)/python -m tests.bench.full
	$(BIN)/python -m tests.bench.overlap
	$(BIN)/python -m tests.bench.bdhs

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(READY)  ## resolve pyproject.toml anew into requirements.lock; ask pip for it on each Python
	$(BIN)/pip-compile --quiet --upgrade --strip-extras --no-annotate --no-emit-index-url \
		--no-emit-find-links --unsafe-package torchaudio --unsafe-package torchcodec \
		--extra worker-cpu --extra trainer --extra embedded --extra tracing --extra experiment \
		--extra s3 --extra gcs --extra dev --output-file requirements.lock pyproject.toml
	$(BIN)/python scripts/check_lock.py

clean:
	rm -rf .venv .venv-3.* demo-out .prefstream

# --no-deps: the lock is complete, but for torchaudio and torchcodec, which nothing here uses and
# which, built for CUDA, break transformers beside a CPU torch.
$(READY): requirements.lock pyproject.toml scripts/torchvision_operators.py
	@test -x $(BIN)/python || { \
		python=$$(scripts/choose_python.sh "$(PYTHON)") && set -x && "$$python" -m venv .venv; }
	$(BIN)/pip install --quiet --no-deps -r requirements.lock
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --no-deps --editable .
	$(BIN)/python scripts/torchvision_operators.py
	@touch $@

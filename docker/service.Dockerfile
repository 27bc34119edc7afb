# The service, and what feeds it: no torch, no engine.
#   docker build --file docker/service.Dockerfile --tag prefstream-service .
ARG PYTHON=python:3.11-slim-bookworm
# hadolint ignore=DL3006  # the argument names a tag
FROM ${PYTHON}

ENV PATH=/opt/prefstream/bin:$PATH PIP_PYTHON=/opt/prefstream/bin/python \
    PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
RUN useradd --no-log-init --uid 10001 --home-dir /tmp --shell /usr/sbin/nologin prefstream \
    && install --directory --owner prefstream /feeds \
    && python -m venv --without-pip /opt/prefstream
WORKDIR /opt/src

# Dependencies first, at the lock's versions, without the code: a change of code leaves them cached.
COPY pyproject.toml requirements.lock ./
RUN touch README.md LICENSE \
    && pip install --constraint requirements.lock setuptools wheel '.[tracing]'
COPY . .
RUN pip install --no-deps --no-build-isolation --force-reinstall .

USER 10001
WORKDIR /tmp
EXPOSE 8000
ENTRYPOINT ["prefstream"]
CMD ["serve", "--host", "0.0.0.0"]

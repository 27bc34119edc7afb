#!/bin/sh
# Prints the interpreter that the Makefile makes .venv with.
#
#   scripts/choose_python.sh [PYTHON]      PYTHON, if it runs; else the first of python3.11, 3.12 and
#                                          3.13 that runs and for which pip finds requirements.lock's
#                                          torch (asked only where several run)
#   scripts/choose_python.sh --other       one of another version than .venv's, also from the folders
#                                          of pyenv and uv; nothing, with status 1, if there is none
set -u
cd "$(dirname "$0")/.." || exit 1

runs() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

# In a virtual environment, because Debian's interpreters have no pip of their own.
has_torch() {
    "$1" -m venv "$scratch/$1" &&
        "$scratch/$1/bin/python" -m pip index versions torch --only-binary=:all: 2>/dev/null |
        sed -n 's/^Available versions: //p' | tr -d ' ' | tr ',' '\n' | grep -qxF "$torch"
}

if [ "${1:-}" = --other ]; then
    ours=$(version_of .venv/bin/python) || exit 1
    for version in 3.11 3.12 3.13; do
        [ "$version" = "$ours" ] && continue
        for python in "python$version" \
            "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python"$version" \
            "${UV_PYTHON_INSTALL_DIR:-$HOME/.local/share/uv/python}/cpython-$version".*/bin/python"$version"; do
            runs "$python" && echo "$python" && exit 0
        done
    done
    exit 1
fi

if [ -n "${1:-}" ]; then
    runs "$1" && echo "$1" && exit 0
    echo "$1 cannot make virtual environments; on Debian: apt-get install python3-venv" >&2
    exit 1
fi

found=
for python in python3.11 python3.12 python3.13; do
    runs "$python" && found="$found $python"
done
# shellcheck disable=SC2086  # names without spaces
set -- $found
case $# in
0)
    echo "prefstream needs Python 3.11, 3.12 or 3.13 with venv, and none of python3.11, python3.12," \
        "python3.13 runs. Install one (on Debian: apt-get install python3 python3-venv), or name" \
        "one: make PYTHON=/path/to/python3." >&2
    exit 1
    ;;
1) echo "$1" && exit 0 ;;
esac
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT || exit 1
torch=$(sed -n 's/^torch==//p' requirements.lock)
for python; do
    has_torch "$python" && echo "$python" && exit 0
done
echo "pip finds torch $torch, the build for CPUs, for none of$found. Give it an index that has it" \
    "(PIP_EXTRA_INDEX_URL; torch's own index of CPU wheels has it), or name an interpreter to set" \
    "up with anyway: make PYTHON=$1." >&2
exit 1

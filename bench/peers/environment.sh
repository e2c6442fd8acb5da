#!/usr/bin/env bash
# Makes the virtual environment of the peers at the pinned versions, unless it is there: environment.sh FOLDER
# PyTorch must install; JAX may be missing (then a note is printed and the comparison goes on without it).
set -euo pipefail
folder=${1:?usage: environment.sh FOLDER}
here=$(cd "$(dirname "$0")" && pwd)
python=$folder/bin/python
[ -x "$python" ] || python3 -m venv "$folder"
if ! "$python" -c 'import numpy, torch' 2>/dev/null; then
    echo "installing PyTorch into $folder (several gigabytes)" >&2
    "$python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
fi
if ! "$python" -c 'import jax, optax' 2>/dev/null; then
    "$python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements-jax.txt" ||
        echo "JAX could not be installed: the comparison goes on without it" >&2
fi

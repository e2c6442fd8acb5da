#!/usr/bin/env bash
# Makes a virtual environment with the packages that the comparisons with Python need: environment.sh FOLDER
set -euo pipefail
folder=${1:?usage: environment.sh FOLDER}
[ -x "$folder/bin/python" ] && "$folder/bin/python" -c 'import numpy, safetensors' 2>/dev/null && exit 0
python3 -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check numpy safetensors

#!/usr/bin/env bash
# Makes the virtual environment of the runners that bench/load compares with, unless it is there: queue-environment.sh FOLDER
# A runner that does not install is left out of the comparison, with a note.
set -euo pipefail
folder=${1:?usage: queue-environment.sh FOLDER}
here=$(cd "$(dirname "$0")" && pwd)
python=$folder/bin/python
[ -x "$python" ] || python3 -m venv "$folder"
while read -r requirement; do
    [[ $requirement = '#'* ]] && continue
    package=${requirement%%[=[]*}
    "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$package') is None)" && continue
    echo "installing $requirement into $folder" >&2
    "$python" -m pip install --quiet --disable-pip-version-check "$requirement" ||
        echo "$requirement could not be installed: the comparison goes on without it" >&2
done <"$here/requirements-queues.txt"

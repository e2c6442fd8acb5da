#!/usr/bin/env bash
# Follows docs/adding-a-task.md word for word in a copy of the project, up to the conformance suite:
#   tests/docs/adding-a-task.sh [FOLDER]   (FOLDER keeps the copy; default: a temporary one)
set -euo pipefail
cd "$(dirname "$0")/../.."
project=$PWD
copy=${1:-}
if [ -z "$copy" ]; then
    copy=$(mktemp -d)
    trap 'rm -rf "$copy"' EXIT
fi
mkdir -p "$copy"
git ls-files -z | tar --null --files-from=- --create --file=- | tar --extract --directory="$copy"
python3 - "$copy" <<'PYTHON'
import pathlib
import re
import sys

copy = pathlib.Path(sys.argv[1])
page = (copy / "docs/adding-a-task.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.M | re.S)


def insert(file, before, lines):
    path = copy / file
    text = path.read_text()
    assert text.count(before) == 1, f"{file} has no single {before!r}"
    path.write_text(text.replace(before, "".join(line + "\n" for line in lines) + before))


(copy / "common/src/tasks/parity.rs").write_text(blocks("rust")[0])
in_list, in_suite = ([line[1:] for line in diff.splitlines() if line.startswith("+")] for diff in blocks("diff"))
declarations = [line for line in in_list if line.endswith(";")]
entries = [line for line in in_list if line.endswith(",")]
assert len(declarations) == 2 and len(entries) == 1, in_list
insert("common/src/tasks/mod.rs", "mod query_count;\n", declarations)
insert("common/src/tasks/mod.rs", '}\n\nimpl TaskConfig {\n    /// Whether this is addition', entries)
insert("common/tests/task_list/mod.rs", "    ]\n}\n\n/// Reads a valid", in_suite)
(copy / "parity.toml").write_text(blocks("toml")[0])
PYTHON
cd "$copy"
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$project/target} cargo test -p plateau-common --test tasks_conformance --test tasks_allocations

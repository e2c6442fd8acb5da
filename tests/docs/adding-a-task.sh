#!/usr/bin/env bash
# Follows docs/adding-a-task.md word for word in a copy of the project, up to the conformance suite:
#   tests/docs/adding-a-task.sh [FOLDER]   (FOLDER keeps the copy; default: a temporary one)
set -euo pipefail
. "$(dirname "$0")/copy.sh"
python3 - "$copy" <<'PYTHON'
from page import Page

page = Page("docs/adding-a-task.md")
page.write("common/src/tasks/parity.rs", page.blocks("rust")[0])
in_list, in_suite = page.additions()
declarations = [line for line in in_list if line.endswith(";")]
entries = [line for line in in_list if line.endswith(",")]
assert len(declarations) == 2 and len(entries) == 1, in_list
page.insert("common/src/tasks/mod.rs", "mod query_count;\n", declarations)
page.insert("common/src/tasks/mod.rs", '}\n\nimpl TaskConfig {\n    /// Whether this is addition', entries)
page.insert("common/tests/task_list/mod.rs", "    ]\n}\n\n/// A task over sentences", in_suite)
page.write("parity.toml", page.blocks("toml")[0])
PYTHON
cd "$copy"
cargo test -p plateau-common --test tasks_conformance --test tasks_allocations

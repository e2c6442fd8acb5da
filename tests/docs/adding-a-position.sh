#!/usr/bin/env bash
# Follows docs/adding-a-position.md word for word in a copy of the project, up to the conformance suite and the reading of its study:
#   tests/docs/adding-a-position.sh [FOLDER]   (FOLDER keeps the copy; default: a temporary one)
set -euo pipefail
. "$(dirname "$0")/copy.sh"
python3 - "$copy" <<'PYTHON'
from page import Page

page = Page("docs/adding-a-position.md")
page.write("common/src/positions/alibi.rs", page.blocks("rust")[0])
(module, public, entry), in_suite = page.additions()
page.insert("common/src/positions/mod.rs", "mod fire;\n", [module])
page.insert("common/src/positions/mod.rs", "pub use fire::Fire;\n", [public])
page.insert("common/src/positions/mod.rs", "}\n\n/// The schemes of a model", [entry])
page.insert("common/tests/positions.rs", "    ]\n}\n\n/// A trial whose model", in_suite)
page.write("studies/arithmetic/alibi.toml", page.blocks("toml")[0])
PYTHON
cd "$copy"
command=$(sed -n '/^## 3/,/^## 4/p' docs/adding-a-position.md | sed -n '/^```sh$/,/^```$/p' | sed '1d;$d')
log=$(mktemp --tmpdir="$copy")
bash -euc "$command" 2>&1 | tee "$log"
# Filters that match nothing pass as well.
for test in slopes_are_those_of_the_paper every_scheme_of_the_list_is_configured_here; do
    grep --quiet "$test ... ok" "$log" || { echo "the test $test did not run" >&2; exit 1; }
done
# Reads every study under studies/, that of the page among them.
cargo test -p plateau-analysis --test studies

#!/usr/bin/env bash
# Fails if a page names a test (`path::name` in backquotes) that does not exist.
set -euo pipefail
cd "$(dirname "$0")/../.."
missing=0
for page in docs/promises.md tests/CASES.md tests/FOUND.md; do
    [ -e "$page" ] || continue
    while IFS= read -r test; do
        if ! grep -qE "fn ${test##*::}\b" "${test%%::*}" 2>/dev/null; then
            echo "$page names the test $test, which does not exist" >&2
            missing=1
        fi
    done < <(grep -oE '`[A-Za-z0-9_/.-]+\.rs::[a-z0-9_]+`' "$page" | tr -d '`')
done
exit $missing

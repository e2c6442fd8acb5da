#!/usr/bin/env bash
# Fails if a Markdown file links to a file of the project that does not exist.
set -euo pipefail
cd "$(dirname "$0")/../.."
missing=0
while IFS= read -r file; do
    while IFS= read -r target; do
        case $target in http://* | https://* | '#'* | mailto:*) continue ;; esac
        path=$(dirname "$file")/${target%%#*}
        if [ ! -e "$path" ]; then
            echo "$file links to $target, which does not exist" >&2
            missing=1
        fi
    done < <(grep -oE '\]\([^)]+\)' "$file" | sed -E 's/^\]\(//; s/\)$//')
done < <(git ls-files '*.md')
exit $missing

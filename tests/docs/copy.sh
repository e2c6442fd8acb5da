# Sourced by the scripts that follow a page of docs/: puts a copy of the project into the folder given, or into a temporary
# one that goes with the script, and leaves its path in `copy`. Cargo shares the project's target folder there.
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH=$PWD/tests/docs PYTHONDONTWRITEBYTECODE=1 CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
copy=${1:-}
if [ -z "$copy" ]; then
    copy=$(mktemp -d)
    trap 'rm -rf "$copy"' EXIT
fi
mkdir -p "$copy"
git ls-files -z | tar --null --files-from=- --create --file=- | tar --extract --directory="$copy"

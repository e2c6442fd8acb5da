#!/usr/bin/env bash
# Mutation testing of the coordinator's core: changes its code in small ways, one at a time, and counts how many of the changes
# its tests notice. Needs `cargo install cargo-mutants`. Takes about an hour on two cores; arguments go to `cargo mutants`.
#
# The core depends on little, so a package of its own is made of it (and of the store, which its tests of restarts use): a
# mutant is then built in seconds, not in the minute that the whole coordinator takes.
set -euo pipefail
cd "$(dirname "$0")/.."
repository=$PWD
package=target/mutants/core-alone
rm -rf "$package"
mkdir -p "$package/src"
cp -r coordinator/src/core coordinator/src/store coordinator/src/disk.rs "$package/src/"
cp Cargo.lock clippy.toml "$package/"
# The store's own tests use the rest of the coordinator.
sed -i '/^#\[cfg(test)\]$/{N;/mod tests;/d}' "$package/src/store/mod.rs"
rm -f "$package/src/store/tests.rs"
cat >"$package/src/lib.rs" <<'RUST'
//! The coordinator's core and what its tests need.
pub mod core;
pub mod disk;
pub mod store;
RUST
{
    sed -n '/^\[package\]/,/^$/p' coordinator/Cargo.toml
    sed -n '/^\[dependencies\]/,/^$/p; /^\[dev-dependencies\]/,/^$/p' coordinator/Cargo.toml |
        grep -E '^\[|^$|^(plateau-common|proptest|rusqlite|rustix|serde_json|tempfile|thiserror|tracing|url|uuid|zstd)'
    echo '[workspace]'
    sed -n '/^\[workspace.package\]/,/^$/p; /^\[workspace.dependencies\]/,/^\[/p' Cargo.toml | sed '$d' |
        sed -E "s#path = \"([a-z-]+)\"#path = \"$repository/\\1\"#"
    cat <<'TOML'
[profile.dev]
debug = false
incremental = true
opt-level = 1
[profile.dev.package."*"]
opt-level = 1
TOML
} >"$package/Cargo.toml"
cd "$package"
exec cargo mutants --in-place --no-shuffle --file 'src/core/*.rs' --output .. "$@"

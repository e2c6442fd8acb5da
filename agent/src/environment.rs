//! What a trainer child inherits: what programs, drivers and libraries need to run, and nothing else.
//!
//! A trial's code may be anything one day; it has no business with tokens, with the coordinator's address, or with whatever
//! else the agent was started with. It runs in a folder of its own, so that a stray relative path meets nothing.

use std::path::Path;

use tokio::process::Command;

/// Variables that are handed on.
const INHERITED: [&str; 14] = [
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "LOGNAME",
    "NO_COLOR",
    "PATH",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_CACHE_HOME",
    "XDG_RUNTIME_DIR",
];
/// Beginnings of further ones: which cards are shown and how their driver behaves; threads of libraries.
const INHERITED_PREFIXES: [&str; 3] = ["CUDA_", "NVIDIA_", "OMP_"];

/// Gives `command` the clean environment and the folder it runs in.
pub fn confine(command: &mut Command, folder: &Path) {
    command.env_clear().current_dir(folder);
    for (name, value) in std::env::vars_os() {
        let inherited = name.to_str().is_some_and(|name| {
            INHERITED.contains(&name) || INHERITED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        });
        if inherited {
            command.env(name, value);
        }
    }
}

//! The binary `plateau`; everything it does is in the library `plateau_cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    plateau_cli::main()
}

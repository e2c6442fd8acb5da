//! The binary under test.

fn main() -> std::process::ExitCode {
    plateau_cli::main()
}

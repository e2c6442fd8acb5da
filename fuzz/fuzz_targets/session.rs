//! libFuzzer for the target `session`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| plateau_fuzz::session::run(data));

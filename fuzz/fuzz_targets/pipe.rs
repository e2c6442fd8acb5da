//! libFuzzer for the target `pipe`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| plateau_fuzz::pipe::run(data));

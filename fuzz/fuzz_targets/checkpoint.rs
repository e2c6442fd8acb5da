//! libFuzzer for the target `checkpoint`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| plateau_fuzz::checkpoint::run(data));

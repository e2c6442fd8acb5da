//! libFuzzer for the target `requests`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| plateau_fuzz::requests::run(data));

//! libFuzzer for the target `names`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| plateau_fuzz::names::run(data));

//! libFuzzer for the target `metrics`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| plateau_fuzz::metrics::run(data));

//! libFuzzer for the target `manifest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| plateau_fuzz::manifest::run(data));

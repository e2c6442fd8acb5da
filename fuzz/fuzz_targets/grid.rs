//! libFuzzer for the target `grid`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| plateau_fuzz::grid::run(data));

//! libFuzzer for the target `study`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| plateau_fuzz::study::run(data));

//! libFuzzer for the target `keys`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| plateau_fuzz::keys::run(data));

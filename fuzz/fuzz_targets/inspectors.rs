#![no_main]

#[path = "../bodies/inspectors.rs"]
mod inspectors;

libfuzzer_sys::fuzz_target!(|data: &[u8]| inspectors::run(data));

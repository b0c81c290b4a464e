#![no_main]

#[path = "../bodies/endings.rs"]
mod endings;

libfuzzer_sys::fuzz_target!(|data: &[u8]| endings::run(data));

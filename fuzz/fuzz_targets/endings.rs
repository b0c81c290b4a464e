#![no_main]

#[path = "../bodies/endings.rs"]
mod endings;
#[path = "../bodies/made.rs"]
mod made;

libfuzzer_sys::fuzz_target!(|data: &[u8]| endings::run(data));

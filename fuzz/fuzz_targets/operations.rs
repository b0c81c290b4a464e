#![no_main]

#[path = "../bodies/made.rs"]
mod made;
#[path = "../bodies/operations.rs"]
mod operations;

libfuzzer_sys::fuzz_target!(|data: &[u8]| operations::run(data));

//! State that one generation gives to the next. A service has it in memory, and so have these.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Write};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::stamp;

/// So many MiB, resident.
pub fn resident(mib: usize) -> Vec<u8> {
    vec![1; mib << 20]
}

/// Takes in a state that has arrived, and says so before and after.
pub fn take_in(state: &[u8]) {
    stamp("arrived");
    touch(state);
    stamp("state");
}

/// Reads every byte.
fn touch(state: &[u8]) {
    let (words, rest) = state.as_chunks();
    let sum = words.iter().fold(0, |sum: u64, word| sum.wrapping_add(u64::from_ne_bytes(*word)));
    black_box(rest.iter().fold(sum, |sum, byte| sum.wrapping_add(u64::from(*byte))));
}

/// The least that there is to do for bytes which another process is to have in memory of its own or shared: they are
/// written once, see `memfd_create(2)`.
pub fn write_once(state: &[u8]) -> io::Result<File> {
    let mut memfd = File::from(memfd_create(c"state", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    memfd.write_all(state)?;
    Ok(memfd)
}

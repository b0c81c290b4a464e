//! The signals of a command that runs a service, as news.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;
use std::thread::Builder;

use nix::libc;

use super::News;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Stop,
    Upgrade,
    /// A child has ended.
    Child,
}

/// Has each signal told from here on. Children begin with the default actions: what is caught is not inherited, see `execve(2)`.
pub(super) fn listen(tell: &Sender<News>) -> io::Result<()> {
    let signals = [
        (libc::SIGTERM, Told::Stop),
        (libc::SIGINT, Told::Stop),
        (libc::SIGHUP, Told::Upgrade),
        (libc::SIGCHLD, Told::Child),
    ];
    for (signal, told) in signals {
        let (mut read, write) = UnixStream::pair()?;
        signal_hook::low_level::pipe::register(signal, write)?;
        let tell = tell.clone();
        Builder::new().name("signals".to_owned()).spawn(move || {
            let mut several = [0; 64];
            while read.read(&mut several).is_ok_and(|count| count > 0) {
                if tell.send(News::Told(told)).is_err() {
                    return;
                }
            }
        })?;
    }
    Ok(())
}

//! One handoff of so many pipes between two threads, for an instrument that counts instructions: `instructions COUNT`.

use std::error::Error;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use fd_handoff::{Config, Offer, handoff_listen, handoff_receive};

fn main() -> Result<(), Box<dyn Error>> {
    let count: usize = std::env::args().nth(1).ok_or("instructions COUNT")?.parse()?;
    let pipes = (0..count).map(|_| io::pipe()).collect::<io::Result<Vec<_>>>()?;
    let fds: Vec<OwnedFd> = pipes.into_iter().map(|(reader, _)| reader.into()).collect();
    let dir = tempfile::tempdir()?;
    let config = Config::new(dir.path().join("control.sock")).timeouts(|timeouts| timeouts.probation = Duration::ZERO);
    let control = handoff_listen(config.clone())?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let ready = control.accept().expect("a successor").offer(Offer::new().group("fd", &fds)).expect("ready");
            ready.release(None).expect("active").farewell(None).expect("farewell");
        });
        let mut inheritance = handoff_receive(config)?;
        assert_eq!(inheritance.take_all::<OwnedFd>("fd")?.len(), count);
        inheritance.ready()?.close();
        Ok(())
    })
}

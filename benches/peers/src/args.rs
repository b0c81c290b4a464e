//! The command line of every measured service.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::*;

use crate::resident;

/// What a service is to be. The harness gives every contestant the same.
#[derive(Debug, Clone)]
pub struct Args {
    /// `--dir`: where its control socket and whatever else it needs is.
    pub dir: PathBuf,
    /// `--port`: of every listener.
    pub port: u16,
    /// `--listeners`: how many, each at an address of its own.
    pub listeners: usize,
    /// `--init`: milliseconds for which a generation initialises before it can serve.
    pub init: Duration,
    /// `--ballast`: MiB of memory that the first generation has resident.
    pub ballast: usize,
    /// `--state`: MiB of state that the first generation gives to the next.
    pub state: usize,
    /// `--upgrade`: this process is to take the place of a running one. For those whose library needs to be told.
    pub upgrade: bool,
}

impl Default for Args {
    fn default() -> Args {
        Args { dir: PathBuf::new(), port: 0, listeners: 1, init: Duration::ZERO, ballast: 0, state: 0, upgrade: false }
    }
}

/// What `read` makes of the command line of this process. Ends it, with a message, where that makes no sense.
pub fn parsed<T>(read: fn(lexopt::Parser) -> Result<T, lexopt::Error>) -> T {
    read(lexopt::Parser::from_env()).unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(2)
    })
}

impl Args {
    /// From the command line of this process. Ends it, with a message, where that makes no sense.
    pub fn parse() -> Args {
        parsed(Args::read)
    }

    fn read(mut parser: lexopt::Parser) -> Result<Args, lexopt::Error> {
        let mut args = Args::default();
        while let Some(option) = parser.next()? {
            match option {
                Long("dir") => args.dir = parser.value()?.into(),
                Long("port") => args.port = parser.value()?.parse()?,
                Long("listeners") => args.listeners = parser.value()?.parse()?,
                Long("init") => args.init = Duration::from_millis(parser.value()?.parse()?),
                Long("ballast") => args.ballast = parser.value()?.parse()?,
                Long("state") => args.state = parser.value()?.parse()?,
                Long("upgrade") => args.upgrade = true,
                _ => return Err(option.unexpected()),
            }
        }
        Ok(args)
    }

    /// The command line that says the same.
    pub fn to_vec(&self) -> Vec<String> {
        let mut args = vec![format!("--dir={}", self.dir.display())];
        args.push(format!("--port={}", self.port));
        args.push(format!("--listeners={}", self.listeners));
        args.push(format!("--init={}", self.init.as_millis()));
        args.push(format!("--ballast={}", self.ballast));
        args.push(format!("--state={}", self.state));
        if self.upgrade {
            args.push("--upgrade".to_owned());
        }
        args
    }

    /// The addresses to listen on: one port of all of 127.0.0.0/8, which is loopback as a whole.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + use<> {
        let port = self.port;
        let host = |index: usize| Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + index as u32);
        (0..self.listeners).map(move |index| SocketAddr::from((host(index), port)))
    }

    /// The control socket, of those that have one.
    pub fn control(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// Initialises, as long as was asked for.
    pub fn initialise(&self) {
        if !self.init.is_zero() {
            std::thread::sleep(self.init);
        }
    }

    /// Memory that is resident until it is dropped.
    pub fn ballast(&self) -> Vec<u8> {
        resident(self.ballast)
    }
}

//! The successor's side, blocking.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;

use crate::config::Config;
use crate::driver::descriptor::Inheritable;
use crate::driver::taking::{Found, Inherited, Search, Transfer};
use crate::error::{Error, Result, StateError};
use crate::facade::blocking::listen::{Control, wait_until};
use crate::state::Received;
use crate::sys::event::wait_readable;

/// Takes copies of everything from the service that runs at this control socket; where nobody runs there,
/// begins a cold start.
///
/// Returns when everything has arrived. The predecessor goes on serving until [`Inheritance::ready`].
///
/// # Errors
///
/// [`Error::Refused`] where the running service refuses (`busy`, `denied`, `version`), [`Error::Handoff`] where
/// what arrived is not what was announced, and whatever else is wrong with the path. A service that dies on the
/// way is looked for again; [`Error::PredecessorLost`] comes only where that is of no use.
pub fn handoff_receive(config: impl Into<Config>) -> Result<Inheritance> {
    let mut search = Search::new(config.into());
    loop {
        match search.look()? {
            Found::Nobody(inherited) => return Ok(Inheritance::from(*inherited)),
            Found::Starting(again) => wait_until(again),
            Found::Service(transfer) => match receive(*transfer) {
                Err(error) if search.may_look_again(&error) => {
                    tracing::warn!(event = "looking_again", %error, "looking for the service again");
                }
                done => return Ok(Inheritance::from(done?)),
            },
        }
    }
}

fn receive(mut transfer: Transfer) -> Result<Inherited> {
    loop {
        if let Some(arrived) = transfer.poll() {
            return Ok(transfer.finish(arrived?));
        }
        wait_readable(&[transfer.link().poller().as_fd()], transfer.link().deadline()).map_err(Error::io("wait"))?;
    }
}

/// What a new generation begins with: descriptors by name, and the snapshot. Empty on a cold start.
///
/// Dropping it gives the handoff up; the predecessor goes on serving.
#[derive(Debug)]
pub struct Inheritance {
    pub(crate) inherited: Inherited,
}

impl From<Inherited> for Inheritance {
    fn from(inherited: Inherited) -> Inheritance {
        Inheritance { inherited }
    }
}

impl Inheritance {
    /// Whether nobody was there to inherit from.
    pub fn is_cold_start(&self) -> bool {
        self.inherited.is_cold_start()
    }

    /// The generation that this process is about to be, from 1.
    pub fn generation(&self) -> u64 {
        self.inherited.generation()
    }

    /// Takes the descriptor of this name, if one was handed over and not taken before.
    ///
    /// # Errors
    ///
    /// [`Error::WrongKind`] where it is something else, [`Error::Several`] where the name stands for a group.
    pub fn take<T: Inheritable>(&mut self, name: &str) -> Result<Option<T>> {
        self.inherited.take(name)
    }

    /// Takes all the descriptors of this name, in the order in which they were offered.
    ///
    /// # Errors
    ///
    /// [`Error::WrongKind`] where one of them is something else; then none is taken.
    pub fn take_all<T: Inheritable>(&mut self, name: &str) -> Result<Vec<T>> {
        self.inherited.take_all(name)
    }

    /// Takes the descriptor of this name, or else makes it.
    ///
    /// # Errors
    ///
    /// As [`Inheritance::take`], and whatever `make` says.
    pub fn take_or_else<T, E>(&mut self, name: &str, make: impl FnOnce() -> Result<T, E>) -> Result<T>
    where
        T: Inheritable + AsFd,
        E: Into<std::io::Error>,
    {
        self.inherited.take_or_else(name, make)
    }

    /// The inherited listener of this name, or else a new one, bound to `addr`. Port 0 stands for any port.
    ///
    /// # Errors
    ///
    /// [`Error::AddressChanged`] where the inherited one is bound elsewhere, and what `bind(2)` says.
    pub fn tcp_listener(&mut self, name: &str, addr: SocketAddr) -> Result<TcpListener> {
        self.inherited.take_bound(name, addr, TcpListener::bind).map(|(_, listener)| listener)
    }

    /// The inherited UDP socket of this name, or else a new one, bound to `addr`. Port 0 stands for any port.
    ///
    /// # Errors
    ///
    /// As [`Inheritance::tcp_listener`].
    pub fn udp_socket(&mut self, name: &str, addr: SocketAddr) -> Result<UdpSocket> {
        self.inherited.take_bound(name, addr, UdpSocket::bind).map(|(_, socket)| socket)
    }

    /// Names a socket or file in `status` that this program made in another way.
    ///
    /// # Errors
    ///
    /// A name that is not allowed, or a descriptor that cannot be examined.
    pub fn register(&mut self, name: &str, fd: &impl AsFd) -> Result<()> {
        self.inherited.register(name, fd)
    }

    /// The snapshot's bytes, if there is one.
    pub fn received(&self) -> Option<&Received> {
        self.inherited.state().map(AsRef::as_ref)
    }

    /// The snapshot, if there is one, as [`State::serde`](crate::State::serde) was given it.
    ///
    /// # Errors
    ///
    /// As [`Received::serde`].
    #[cfg(feature = "bincode")]
    pub fn state<T: serde::de::DeserializeOwned>(&self) -> Result<Option<T>, StateError> {
        self.state_with(Received::serde)
    }

    /// The snapshot, if there is one, as `decode` reads it.
    ///
    /// # Errors
    ///
    /// What `decode` says.
    pub fn state_with<T>(
        &self,
        decode: impl FnOnce(&Received) -> Result<T, StateError>,
    ) -> Result<Option<T>, StateError> {
        self.received().map(decode).transpose()
    }

    /// Tells the predecessor how the initialisation goes, and begins its ready deadline anew.
    pub fn progress(&mut self, message: &str) {
        self.inherited.progress(message);
    }

    /// Says that this process can serve, and waits until the predecessor has stopped accepting. When it
    /// returns, the service is this process's: accept.
    ///
    /// Descriptors that were not taken are closed, with a warning that names them.
    ///
    /// # Errors
    ///
    /// [`Error::Handoff`] where the predecessor gave up or was too slow: it still serves, and this process must
    /// not. [`Error::Unclaimed`] in strict mode.
    pub fn ready(self) -> Result<Control> {
        let (mut readied, reception) = self.inherited.ready()?;
        // If the handoff fails, dropping it ends the background again.
        let control = Control::begin(Arc::clone(readied.generation()), reception)?;
        loop {
            if let Some(takeover) = readied.poll() {
                readied.own(takeover?);
                return Ok(control);
            }
            if let Some(link) = readied.link() {
                wait_readable(&[link.poller().as_fd()], link.deadline()).map_err(Error::io("wait"))?;
            }
        }
    }
}

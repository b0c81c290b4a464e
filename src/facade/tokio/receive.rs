//! The successor's side on tokio.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use ::tokio::net::{TcpListener, UdpSocket};

use super::listen::Control;
use super::{Watched, off_runtime};
use crate::config::Config;
use crate::driver::descriptor::Inheritable;
use crate::driver::taking::{Found, Inherited, Search, Transfer};
use crate::error::{Error, Result, StateError};
use crate::state::Received;

/// [`crate::handoff_receive`] on tokio.
///
/// # Errors
///
/// As there.
pub async fn handoff_receive(config: impl Into<Config>) -> Result<Inheritance> {
    let mut search = Search::new(config.into());
    loop {
        match search.look()? {
            Found::Nobody(inherited) => return Ok(Inheritance::from(*inherited)),
            Found::Starting(again) => ::tokio::time::sleep_until(again.into()).await,
            Found::Service(transfer) => match receive(*transfer).await {
                Err(error) if search.may_look_again(&error) => {
                    tracing::warn!(event = "looking_again", %error, "looking for the service again");
                }
                done => return Ok(Inheritance::from(done?)),
            },
        }
    }
}

async fn receive(mut transfer: Transfer) -> Result<Inherited> {
    let poller = Watched::new(Arc::clone(transfer.link().poller()))?;
    loop {
        if let Some(arrived) = transfer.poll() {
            return Ok(transfer.finish(arrived?));
        }
        poller.wait(transfer.link().deadline()).await;
    }
}

/// [`crate::Inheritance`] on tokio: what a new generation begins with. Empty on a cold start.
///
/// Dropping it gives the handoff up; the predecessor goes on serving.
#[derive(Debug)]
pub struct Inheritance {
    pub(super) inherited: Inherited,
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

    /// [`crate::Inheritance::take`]: a std type, to be made tokio's with its `from_std`.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn take<T: Inheritable>(&mut self, name: &str) -> Result<Option<T>> {
        self.inherited.take(name)
    }

    /// [`crate::Inheritance::take_all`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn take_all<T: Inheritable>(&mut self, name: &str) -> Result<Vec<T>> {
        self.inherited.take_all(name)
    }

    /// [`crate::Inheritance::take_or_else`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn take_or_else<T, E>(&mut self, name: &str, make: impl FnOnce() -> Result<T, E>) -> Result<T>
    where
        T: Inheritable + AsFd,
        E: Into<std::io::Error>,
    {
        self.inherited.take_or_else(name, make)
    }

    /// [`crate::Inheritance::tcp_listener`] as tokio's type.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn tcp_listener(&mut self, name: &str, addr: SocketAddr) -> Result<TcpListener> {
        let listener = self.inherited.take_bound(name, addr, std::net::TcpListener::bind)?.1;
        listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener)).map_err(with_tokio(name))
    }

    /// [`crate::Inheritance::udp_socket`] as tokio's type.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn udp_socket(&mut self, name: &str, addr: SocketAddr) -> Result<UdpSocket> {
        let socket = self.inherited.take_bound(name, addr, std::net::UdpSocket::bind)?.1;
        socket.set_nonblocking(true).and_then(|()| UdpSocket::from_std(socket)).map_err(with_tokio(name))
    }

    /// [`crate::Inheritance::register`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn register(&mut self, name: &str, fd: &impl AsFd) -> Result<()> {
        self.inherited.register(name, fd)
    }

    /// The snapshot's bytes, if there is one.
    pub fn received(&self) -> Option<&Received> {
        self.inherited.state().map(AsRef::as_ref)
    }

    /// [`crate::Inheritance::state`], decoded on a thread for blocking work.
    ///
    /// # Errors
    ///
    /// As there.
    #[cfg(feature = "bincode")]
    pub async fn state<T: serde::de::DeserializeOwned + Send + 'static>(&self) -> Result<Option<T>, StateError> {
        self.state_with(Received::serde).await
    }

    /// [`crate::Inheritance::state_with`], decoded on a thread for blocking work.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn state_with<T: Send + 'static>(
        &self,
        decode: impl FnOnce(&Received) -> Result<T, StateError> + Send + 'static,
    ) -> Result<Option<T>, StateError> {
        let Some(state) = self.inherited.state().cloned() else { return Ok(None) };
        off_runtime(move || decode(&state)).await.map(Some)
    }

    /// [`crate::Inheritance::progress`].
    pub fn progress(&mut self, message: &str) {
        self.inherited.progress(message);
    }

    /// [`crate::Inheritance::ready`] on tokio. Cancelling it gives the handoff up.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn ready(self) -> Result<Control> {
        let (mut readied, reception) = self.inherited.ready()?;
        // If the handoff fails, dropping it ends the background again.
        let control = Control::begin(Arc::clone(readied.generation()), reception)?;
        let poller = readied.link().map(|link| Watched::new(Arc::clone(link.poller()))).transpose()?;
        loop {
            if let Some(takeover) = readied.poll() {
                readied.own(takeover?);
                return Ok(control);
            }
            if let (Some(poller), Some(link)) = (&poller, readied.link()) {
                poller.wait(link.deadline()).await;
            }
        }
    }
}

pub(super) fn with_tokio(name: &str) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::io(format!("use \"{name}\" with tokio"))(error)
}

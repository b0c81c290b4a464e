//! What a new generation begins with, in either form.

use std::fmt::Display;
use std::marker::PhantomData;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;

use crate::driver::descriptor::Inheritable;
use crate::driver::taking::Inherited;
#[cfg(feature = "bincode")]
use crate::error::StateError;
use crate::error::{Error, Result};
use crate::facade::form::Form;
use crate::state::Received;
#[cfg(feature = "bincode")]
use crate::state::shape_of;

/// What a new generation begins with: descriptors by name, and the snapshot. Empty on a cold start.
/// [`crate::Inheritance`], and [`crate::tokio::Inheritance`] on tokio.
///
/// Dropping it gives the handoff up; the predecessor goes on serving, and is told what the last call failed of, if it
/// did. [`Inheritance::fail`] names another reason.
#[derive(Debug)]
pub struct Inheritance<F> {
    pub(super) inherited: Inherited,
    form: PhantomData<fn() -> F>,
}

impl<F> From<Inherited> for Inheritance<F> {
    fn from(inherited: Inherited) -> Inheritance<F> {
        Inheritance { inherited, form: PhantomData }
    }
}

impl<F: Form> Inheritance<F> {
    /// Whether nobody was there to inherit from.
    pub fn is_cold_start(&self) -> bool {
        self.inherited.is_cold_start()
    }

    /// The generation that this process is about to be, from 1.
    pub fn generation(&self) -> u64 {
        self.inherited.generation()
    }

    /// Takes the descriptor of this name, if one was handed over and not taken before. In either form it is a type of
    /// std's, to be made tokio's with its `from_std`. Its O_NONBLOCK is as the predecessor has it, which shares it: do not clear
    /// it before `ready` has returned.
    ///
    /// # Errors
    ///
    /// [`Error::WrongKind`] where it is something else, [`Error::Several`] where the name stands for a group.
    pub fn take<T: Inheritable>(&mut self, name: &str) -> Result<Option<T>> {
        self.noting(|it| it.take(name))
    }

    /// Takes all the descriptors of this name, in the order in which they were offered.
    ///
    /// # Errors
    ///
    /// [`Error::WrongKind`] where one of them is something else; then none is taken.
    pub fn take_all<T: Inheritable>(&mut self, name: &str) -> Result<Vec<T>> {
        self.noting(|it| it.take_all(name))
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
        self.noting(|it| it.take_or_else(name, make))
    }

    /// The inherited listener of this name, or else a new one, bound to `addr`. Port 0 stands for any port.
    ///
    /// # Errors
    ///
    /// [`Error::AddressChanged`] where the inherited one is bound elsewhere, and what `bind(2)` says.
    pub fn tcp_listener(&mut self, name: &str, addr: SocketAddr) -> Result<F::TcpListener> {
        self.noting(|it| {
            let (_, listener) = it.take_bound(name, addr, TcpListener::bind)?;
            F::tcp_listener(listener).map_err(waiting_on(name))
        })
    }

    /// The inherited UDP socket of this name, or else a new one, bound to `addr`. Port 0 stands for any port.
    ///
    /// # Errors
    ///
    /// As [`Inheritance::tcp_listener`].
    pub fn udp_socket(&mut self, name: &str, addr: SocketAddr) -> Result<F::UdpSocket> {
        self.noting(|it| {
            let (_, socket) = it.take_bound(name, addr, UdpSocket::bind)?;
            F::udp_socket(socket).map_err(waiting_on(name))
        })
    }

    /// Names a socket or file in `status` that this program made in another way.
    ///
    /// # Errors
    ///
    /// A name that is not allowed, or a descriptor that cannot be examined.
    pub fn register(&mut self, name: &str, fd: &impl AsFd) -> Result<()> {
        self.noting(|it| it.register(name, fd))
    }

    /// The snapshot's bytes, if there is one.
    pub fn received(&self) -> Option<&Received> {
        self.inherited.state().map(AsRef::as_ref)
    }

    /// Finds out on a cold start already whether the state of the handoff to come can be read, unless schemas were named: they
    /// may be what it is read by.
    #[cfg(feature = "bincode")]
    pub(super) fn check_shape<T: serde::de::DeserializeOwned>(&self) -> Result<(), StateError> {
        let is_due = self.received().is_none() && !self.inherited.names_schemas();
        self.inherited.noted(if is_due { shape_of::<T>().map(drop) } else { Ok(()) })
    }

    /// Tells the predecessor how the initialisation goes, and begins its ready deadline anew.
    pub fn progress(&mut self, message: &str) {
        self.inherited.progress(message);
    }

    /// Gives the handoff up, and tells the predecessor why: the reason is in its log and its `status`. On a cold start
    /// there is nobody to tell.
    ///
    /// Dropping this gives the handoff up as well. The reason is then the error that its last call returned, if it did:
    /// in a `main` that returns errors, `?` is enough.
    pub fn fail(self, reason: impl Display) {
        self.inherited.fail(&reason.to_string());
    }

    /// Runs a call of the application's, and remembers why it failed.
    fn noting<T>(&mut self, call: impl FnOnce(&mut Inherited) -> Result<T>) -> Result<T> {
        let done = call(&mut self.inherited);
        self.inherited.noted(done)
    }
}

/// A socket that this process cannot wait for, once it has it.
pub(super) fn waiting_on(name: &str) -> impl FnOnce(std::io::Error) -> Error {
    Error::io(format!("wait on \"{name}\""))
}

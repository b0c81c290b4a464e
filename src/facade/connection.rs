//! An accepted connection, in either form.

use std::ops::{Deref, DerefMut};

use crate::facade::form::Form;

/// A connection, counted until it is dropped. It is used like the stream in it. [`crate::Connection`], and
/// [`crate::tokio::Connection`] on tokio.
#[derive(Debug)]
pub struct Connection<F: Form, S> {
    pub(super) stream: S,
    pub(super) counted: F::Counted,
}

impl<F: Form, S> Connection<F, S> {
    /// The stream, and what counts it: drop that when the connection ends.
    pub fn into_parts(self) -> (S, F::Counted) {
        (self.stream, self.counted)
    }
}

impl<F: Form, S> Deref for Connection<F, S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.stream
    }
}

impl<F: Form, S> DerefMut for Connection<F, S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.stream
    }
}

//! One measurement a module: each gives its section of the report.

pub(crate) mod gap;
pub(crate) mod lost;
pub(crate) mod protocol;
pub(crate) mod rest;
pub(crate) mod state;
pub(crate) mod timeline;
pub(crate) mod upgrade;

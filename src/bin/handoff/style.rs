//! How what is good and what is bad looks on a terminal.

use clap::builder::styling::{AnsiColor, Style};

/// How bad news looks.
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
/// How news looks that is neither.
pub(crate) const DOUBTFUL: Style = AnsiColor::Yellow.on_default();
/// How good news looks.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();

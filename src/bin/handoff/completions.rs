//! `handoff completions`.

use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;

use crate::Cli;
use crate::output::Output;
use crate::problem::Problem;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(options: &Options, out: &mut Output) -> Result<(), Problem> {
    // Into memory first: the generator panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut without_hidden(&Cli::command()), "handoff", &mut script);
    out.text(String::from_utf8_lossy(&script))
}

/// The command line as people are to see it: the generators complete hidden options, too.
fn without_hidden(command: &Command) -> Command {
    // clap wants a name that lasts: there is a handful of them, and this process ends at once.
    let name: &'static str = command.get_name().to_owned().leak();
    let mut shown = Command::new(name);
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    if command.get_version().is_some() {
        shown = shown.version(env!("CARGO_PKG_VERSION"));
    }
    let arguments = command.get_arguments().filter(|argument| !argument.is_hide_set());
    let subcommands = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
    shown.args(arguments.cloned()).subcommands(subcommands.map(without_hidden))
}

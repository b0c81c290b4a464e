//! `handoff keep`: a process that keeps a service while nobody serves it.

use std::net::SocketAddr;

use clap::Args;
use fd_handoff::Keeper;

use crate::Service;
use crate::problem::{Problem, explain};

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    service: Service,
    /// Where no service runs: bind a TCP listener, and give it to the first process, which asks for it by this name
    #[arg(long, value_name = "NAME=ADDR", value_parser = named_address)]
    listen: Vec<(String, SocketAddr)>,
    /// How many processes in a row may die of the same state before it is left out
    #[arg(long, value_name = "N", default_value_t = 3)]
    state_tries: u32,
}

pub(crate) fn run(options: Options) -> Result<(), Problem> {
    let path = options.service.path();
    let keeper = Keeper::new(&path).state_tries(options.state_tries).on_event(|event| anstream::eprintln!("{event}"));
    let keeper = options.listen.iter().fold(keeper, |keeper, (name, addr)| keeper.listen(name, *addr));
    keeper.run().map_err(|error| explain(&path, error))
}

/// `http=0.0.0.0:8080`.
fn named_address(text: &str) -> Result<(String, SocketAddr), String> {
    let wanted = "NAME=ADDR, as in http=0.0.0.0:8080";
    let (name, addr) = text.split_once('=').ok_or_else(|| wanted.to_owned())?;
    let addr = addr.parse().map_err(|error| format!("{error}; {wanted}"))?;
    if name.is_empty() {
        return Err(wanted.to_owned());
    }
    Ok((name.to_owned(), addr))
}

//! fd-handoff's facade on tokio.

use std::error::Error;
use std::sync::Arc;

use fd_handoff::tokio::Handoff;
use fd_handoff::{Finish, Received, SignalKind, State, StateError};
use peers::{Args, Server, resident, stamp, take_in};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    stamp("main");
    let args = Args::parse();
    let mut starting = Handoff::builder(args.control()).upgrade_on(SignalKind::hangup()).start().await?;
    let cold = starting.is_cold_start();
    let ballast = if cold { args.ballast() } else { Vec::new() };
    if cold && args.state > 0 {
        let state = Arc::new(resident(args.state));
        starting.on_offer(move || {
            let state = Arc::clone(&state);
            State::writer(move |out| out.write_all(&state))
        });
    }
    let mut acceptors = Vec::new();
    for addr in args.addresses() {
        acceptors.push(starting.tcp_listener(&addr.to_string(), addr)?);
    }
    if !cold {
        starting.state_with(read).await?;
        args.initialise();
    }
    let mut handoff = starting.ready().await?;

    let server = Server::default();
    for acceptor in acceptors {
        let server = server.clone();
        tokio::spawn(async move {
            while let Ok(Some((connection, _))) = acceptor.accept().await {
                tokio::spawn(server.clone().answers(connection));
            }
        });
    }
    stamp("serving");
    handoff.superseded().await;
    // The acceptors have stopped by themselves.
    stamp("stopped");
    stamp("told");
    server.begin_drain();
    let finish = handoff.finish(handoff.handle().drained()).await?;
    drop(ballast);
    match finish {
        Finish::Exit => Ok(()),
        Finish::Resume => Err("the successor was lost".into()),
    }
}

fn read(state: &Received) -> Result<(), StateError> {
    take_in(state);
    Ok(())
}

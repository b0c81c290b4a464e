//! ecdysis on tokio. Its setters are for triggers, the pid file and systemd: nothing about its speed can be set.
//!
//! The old process looks for the new one's word every 500 ms, and both accept until it has seen it.

use std::error::Error;
use std::time::Duration;

use ecdysis::tokio_ecdysis::{SignalKind, StopOnShutdown, TokioEcdysisBuilder};
use futures::StreamExt;
use peers::{Args, Server, bind, stamp};
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    stamp("main");
    let args = Args::parse();
    let builder = TokioEcdysisBuilder::new(SignalKind::hangup())?;
    let ballast = if builder.is_child() { Vec::new() } else { args.ballast() };
    let mut listeners = Vec::new();
    for addr in args.addresses() {
        listeners.push(builder.build_listen_tcp(StopOnShutdown::Yes, addr, |_, addr| bind(addr, false))?);
    }
    if builder.is_child() {
        args.initialise();
    }

    let server = Server::default();
    let mut accepting = JoinSet::new();
    for mut listener in listeners {
        let server = server.clone();
        accepting.spawn(async move {
            while let Some(accepted) = listener.next().await {
                match accepted {
                    Ok(stream) => server.serve(stream),
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
    }
    stamp("serving");
    let (_ecdysis, ended) = builder.ready()?;
    ended.await?;
    stamp("told");
    accepting.join_all().await;
    stamp("stopped");
    server.drained().await;
    drop(ballast);
    Ok(())
}

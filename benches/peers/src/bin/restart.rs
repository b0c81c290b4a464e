//! What people do without a library. Each generation binds its own listeners: after the old one has ended (plain
//! restart), or beside it with SO_REUSEPORT, as `REUSEPORT=1` in the environment asks for.

use std::error::Error;
use std::sync::Arc;

use peers::{Args, Server, bind, stamp};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    stamp("main");
    let args = Args::parse();
    let reuse_port = std::env::var_os("REUSEPORT").is_some();
    let mut terminate = signal(SignalKind::terminate())?;
    let ballast = if args.upgrade { Vec::new() } else { args.ballast() };
    if args.upgrade {
        args.initialise();
    }
    let server = Server::default();
    let mut accepting = Vec::new();
    for addr in args.addresses() {
        let listener = TcpListener::from_std(bind(addr, reuse_port)?)?;
        accepting.push(server.accept(Arc::new(listener)));
    }
    stamp("serving");

    terminate.recv().await;
    stamp("told");
    server.stop(accepting).await;
    stamp("stopped");
    server.drained().await;
    drop(ballast);
    Ok(())
}

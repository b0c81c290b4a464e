//! A gRPC service on tonic that is replaced without losing a call: here tonic's own health service.
//!
//! ```text
//! cargo run --example tonic -- 127.0.0.1:50051 /tmp/tonic.sock
//! ```
//!
//! SIGHUP upgrades it, as does `upgrade` at its control socket, or starting it again; SIGTERM stops it.

use std::error::Error;

use fd_handoff::tokio::Handoff;
use fd_handoff::{Config, SignalKind};
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::health_reporter;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(addr), Some(control)) = (args.next(), args.next()) else {
        return Err("usage: tonic ADDRESS CONTROL-SOCKET".into());
    };
    let mut starting = Handoff::builder(Config::new(control).name("tonic"))
        .upgrade_on(SignalKind::hangup())
        .stop_on(SignalKind::terminate())
        .start()
        .await?;
    let listener = starting.tcp_listener("grpc", addr.parse()?)?;
    let listen = listener.local_addr()?;
    let (reporter, health) = health_reporter();
    let mut handoff = starting.ready().await?;

    let (generation, pid) = (handoff.generation(), std::process::id());
    reporter.set_service_status(format!("generation {generation}"), ServingStatus::Serving).await;
    println!("ready generation={generation} pid={pid} listen={listen}");

    // When superseded, tonic says GOAWAY on every connection, and answers the calls that it has seen. Others were still
    // on their way through a client. gRPC clients make those anew by themselves; tonic's do not, but report them as
    // `Cancelled`, as an error of HTTP/2 that is `NO_ERROR`, or as a broken pipe (tests/integrations/grpc.rs tells them
    // apart). A stream without end, such as health's `Watch`, goes on until the drain deadline.
    let served = handoff.serve(|handle| {
        let server = Server::builder().add_service(health.clone());
        server.serve_with_incoming_shutdown(listener.incoming(), handle.superseded())
    });
    served.await?.transpose()?;
    Ok(())
}

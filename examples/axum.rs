//! An axum service that is replaced without losing a request.
//!
//! ```text
//! cargo run --features axum --example axum -- 127.0.0.1:8080 /tmp/axum.sock
//! ```
//!
//! SIGHUP upgrades it, as does `upgrade` at its control socket, or starting it again; SIGTERM stops it.

use std::error::Error;

use axum::routing::get;
use axum::{Router, middleware, serve};
use fd_handoff::tokio::{Handoff, last_answer};
use fd_handoff::{Config, SignalKind};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(addr), Some(control)) = (args.next(), args.next()) else {
        return Err("usage: axum ADDRESS CONTROL-SOCKET".into());
    };
    let mut starting = Handoff::builder(Config::new(control).name("axum"))
        .upgrade_on(SignalKind::hangup())
        .stop_on(SignalKind::terminate())
        .start()
        .await?;
    let listener = starting.tcp_listener("http", addr.parse()?)?;
    let listen = listener.local_addr()?;
    let mut handoff = starting.ready().await?;

    let (generation, pid) = (handoff.generation(), std::process::id());
    let app = Router::new()
        .route("/", get(move || async move { format!("generation {generation}\n") }))
        // Each answer is the last one on its connection once this process is superseded.
        .layer(middleware::map_response_with_state(handoff.handle(), last_answer));
    println!("ready generation={generation} pid={pid} listen={listen}");

    // axum closes idle connections as soon as its graceful shutdown begins, when the next request may be on its way. So
    // it begins when there are none left, or when the drain deadline has passed.
    let served = handoff.serve(|handle| serve(listener.clone(), app.clone()).with_graceful_shutdown(handle.drained()));
    served.await?.transpose()?;
    Ok(())
}

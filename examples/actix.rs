//! An actix-web application that is replaced without losing a request.
//!
//! ```text
//! cargo run --example actix -- 127.0.0.1:8080 /tmp/actix.sock
//! ```
//!
//! SIGHUP upgrades it, as does `upgrade` at its control socket, or starting it again; SIGTERM stops it.
//!
//! The application is actix-web's; the server is not `HttpServer`. That one cannot tell when it has stopped accepting
//! (`pause` returns before its thread has paused), so it might accept after this process has given the service up; and
//! `stop` drops connections that it has accepted and not begun to serve (actix-server 2.6, by its source). So here each
//! worker accepts for itself, and serves with what `HttpServer` is made of, actix-http.

use std::error::Error;
use std::time::Duration;

use actix_http::{HttpService, Protocol};
use actix_service::{IntoServiceFactory, Service, ServiceFactory, map_config};
use actix_web::dev::AppConfig;
use actix_web::{App, http::ConnectionType, rt, web};
use fd_handoff::tokio::{Acceptor, Handle, Handoff};
use fd_handoff::{Config, SignalKind};
use tokio::net::TcpListener;

const WORKERS: usize = 4;

#[actix_web::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(addr), Some(control)) = (args.next(), args.next()) else {
        return Err("usage: actix ADDRESS CONTROL-SOCKET".into());
    };
    let mut starting = Handoff::builder(Config::new(control).name("actix"))
        .upgrade_on(SignalKind::hangup())
        .stop_on(SignalKind::terminate())
        .start()
        .await?;
    let listener = starting.tcp_listener("http", addr.parse()?)?;
    let listen = listener.local_addr()?;
    let mut handoff = starting.ready().await?;

    let (generation, pid) = (handoff.generation(), std::process::id());
    println!("ready generation={generation} pid={pid} listen={listen}");
    let workers: Vec<_> = (0..WORKERS).map(|_| actix_rt::Arbiter::new()).collect();
    let served = handoff.serve(|handle| {
        for worker in &workers {
            let (listener, handle) = (listener.clone(), handle.clone());
            worker.spawn_fn(move || drop(rt::spawn(serve(listener, handle, generation))));
        }
        handle.drained()
    });
    served.await?;
    Ok(())
}

/// Accepts until this process is superseded. Each answer is then the last one on its connection, and says so.
async fn serve(listener: Acceptor<TcpListener>, handle: Handle, generation: u64) {
    let answer = move || async move { format!("generation {generation}\n") };
    let app = App::new().route("/", web::get().to(answer)).wrap_fn(move |request, app| {
        let (answer, handle) = (app.call(request), handle.clone());
        async move {
            let mut answer = answer.await?;
            if handle.is_superseded() {
                answer.response_mut().head_mut().set_connection_type(ConnectionType::Close);
            }
            Ok(answer)
        }
    });
    let http = HttpService::build().finish(map_config(app.into_factory(), |()| AppConfig::default()));
    let Ok(http) = http.new_service(()).await else { return };
    loop {
        match listener.accept().await {
            Ok(Some((connection, addr))) => drop(rt::spawn(http.call((connection, Protocol::Http1, Some(addr))))),
            Ok(None) => return,
            // Out of descriptors, most likely: they come back as connections end.
            Err(_) => rt::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

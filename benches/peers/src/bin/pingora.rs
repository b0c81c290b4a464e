//! pingora-core's server with one listening service, as its users have it.
//!
//! `serving` is when the service has opened its listeners and waits for connections. `told` is when the service hears
//! of the shutdown: nothing else says that there is a successor, and pingora sends it five seconds after the
//! descriptors, whether or not the successor serves by then. `stopped` is when the service has ended. An application
//! initialises after `bootstrap`, as in the examples.

use std::error::Error;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use async_trait::async_trait;
use hyper::Response;
use hyper::header::CONTENT_LENGTH;
use peers::{Args, stamp};
use pingora_core::apps::http_app::{HttpServer, ServeHttp};
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::configuration::{Opt, ServerConf};
use pingora_core::server::{ListenFds, RunArgs, Server, ShutdownWatch};
use pingora_core::services::Service;
use pingora_core::services::listening;

fn main() -> Result<(), Box<dyn Error>> {
    stamp("main");
    let args = Args::parse();
    let conf = ServerConf {
        upgrade_sock: args.control().display().to_string(),
        // It does not wait for its connections, but for as long as this: with 0 they would be cut off.
        grace_period_seconds: Some(1),
        graceful_shutdown_timeout_seconds: Some(0),
        // For each service. The default is one.
        threads: std::thread::available_parallelism()?.get(),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(Opt { upgrade: args.upgrade, ..Opt::default() }, conf);
    server.bootstrap();
    let ballast = if args.upgrade { Vec::new() } else { args.ballast() };
    if args.upgrade {
        args.initialise();
    }
    let mut service = listening::Service::new("http".to_owned(), HttpServer::new_app(Answer));
    args.addresses().for_each(|addr| service.add_tcp(&addr.to_string()));
    server.add_service(Stamping(service));
    server.run(RunArgs::default());
    drop(ballast);
    Ok(())
}

struct Answer;

#[async_trait]
impl ServeHttp for Answer {
    async fn response(&self, _session: &mut ServerSession) -> Response<Vec<u8>> {
        let body = format!("{}\n", std::process::id()).into_bytes();
        let mut response = Response::new(Vec::new());
        response.headers_mut().insert(CONTENT_LENGTH, body.len().into());
        *response.body_mut() = body;
        response
    }
}

/// Says when the service has reached a point that pingora tells nobody of.
struct Stamping(listening::Service<HttpServer<Answer>>);

#[async_trait]
impl Service for Stamping {
    async fn start_service(&mut self, fds: Option<ListenFds>, mut shutdown: ShutdownWatch, listeners_per_fd: usize) {
        let mut service = pin!(self.0.start_service(fds, shutdown.clone(), listeners_per_fd));
        // The first thing that it waits for is the end of the tasks that accept.
        if poll_fn(|context| Poll::Ready(service.as_mut().poll(context))).await.is_pending() {
            stamp("serving");
            let told = async { shutdown.wait_for(|told| *told).await.map(|_| stamp("told")) };
            let _ = tokio::join!(told, service);
            stamp("stopped");
        }
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn listen_addresses(&self) -> Option<Vec<String>> {
        Service::listen_addresses(&self.0)
    }
}

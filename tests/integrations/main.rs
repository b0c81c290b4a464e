//! The examples that show how to hand over a service of this or that framework, replaced again and again under load:
//! by a signal, by a request at the control socket, and by starting them once more. No request may fail.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "../common/example.rs"]
mod example;
#[cfg(feature = "tokio")]
mod grpc;
mod http;
mod service;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use service::{Service, Way};

/// How long anything may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a client rests between two requests: few enough connections to leave the machine's ports alone.
const REST: Duration = Duration::from_millis(2);
const REPLACEMENTS: usize = 6;

#[test]
fn threads() {
    replaced_under_load("threads", http::clients, http::hold);
}

#[cfg(feature = "tokio")]
#[test]
fn actix() {
    replaced_under_load("actix", http::clients, http::hold);
}

#[cfg(feature = "axum")]
#[test]
fn axum() {
    replaced_under_load("axum", http::clients, http::hold);
}

#[cfg(feature = "tokio")]
#[test]
fn tonic() {
    replaced_under_load("tonic", grpc::clients, grpc::hold);
}

/// What a client does until it is told to stop, saying what becomes of each request.
type Client = Box<dyn FnOnce(&dyn Fn(Result<(), String>) -> bool) + Send>;

/// Ways a service in each way, twice, while clients make requests. `hold` begins something with the old process,
/// and what it returns ends that when the new one serves.
fn replaced_under_load<H: FnOnce()>(
    example: &str,
    clients: impl FnOnce(SocketAddr) -> Vec<Client>,
    hold: impl Fn(SocketAddr) -> H,
) {
    let mut service = Service::start(example);
    let load = Load::start(clients(service.addr()));
    let ways = [Way::Signal, Way::Request, Way::Hand];
    // Each replacement begins while the process before the last one may still drain.
    let mut replaced = Vec::new();
    for way in ways.into_iter().cycle().take(REPLACEMENTS) {
        load.goes_on();
        let held = hold(service.addr());
        replaced.push(service.replace(way));
        load.goes_on();
        held();
    }
    load.goes_on();
    // In their order: each one's parent may be the one before.
    replaced.into_iter().for_each(|process| service.ended_well(process));
    load.stop();
    service.stop();
}

/// Clients at work.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
    said: Receiver<(usize, Result<(), String>)>,
}

impl Load {
    fn start(clients: Vec<Client>) -> Load {
        let stop = Arc::<AtomicBool>::default();
        let (sender, said) = channel();
        let start = |(number, client): (usize, Client)| {
            let (stop, sender): (_, Sender<_>) = (Arc::clone(&stop), sender.clone());
            std::thread::spawn(move || {
                client(&|result| {
                    let _ = sender.send((number, result));
                    std::thread::sleep(REST);
                    !stop.load(Ordering::SeqCst)
                });
            })
        };
        let clients = clients.into_iter().enumerate().map(start).collect();
        Load { stop, clients, said }
    }

    /// Waits until each client has been answered twice: a request that began after this call is among them.
    fn goes_on(&self) {
        self.said.try_iter().for_each(succeeded);
        let mut answers = vec![0; self.clients.len()];
        while answers.iter().any(|answers| *answers < 2) {
            let said = self.said.recv_timeout(PATIENCE).expect("no request is answered");
            answers[said.0] += 1;
            succeeded(said);
        }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.clients.into_iter().for_each(|client| client.join().unwrap());
        self.said.try_iter().for_each(succeeded);
    }
}

fn succeeded((client, result): (usize, Result<(), String>)) {
    if let Err(error) = result {
        panic!("client {client}: {error}");
    }
}

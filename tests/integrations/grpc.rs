//! gRPC clients with tonic's channel, which connects anew when the service has said GOAWAY.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::{Client, PATIENCE};

/// Clients that open a channel for each call, clients with a channel of their own, and clients that share one.
pub(crate) fn clients(addr: SocketAddr) -> Vec<Client> {
    let runtime = Arc::new(Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());
    let shared = runtime.block_on(async { channel(addr) });
    let fresh = (0..2).map(|_| client(&runtime, move || channel(addr)));
    let own = (0..2).map(|_| {
        let channel = runtime.block_on(async { channel(addr) });
        client(&runtime, move || channel.clone())
    });
    let sharing = (0..4).map(|_| {
        let shared = shared.clone();
        client(&runtime, move || shared.clone())
    });
    fresh.chain(own).chain(sharing).collect()
}

fn client(runtime: &Arc<Runtime>, channel: impl Fn() -> Channel + Send + 'static) -> Client {
    let runtime = Arc::clone(runtime);
    Box::new(move |tell| {
        let call = || runtime.block_on(async { check(channel()).await });
        while tell(call().map_err(|status| format!("{status:?}"))) {}
    })
}

/// A call. One that the service has not seen is made again.
async fn check(channel: Channel) -> Result<(), Status> {
    loop {
        match HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await {
            Err(status) if unseen(&status) => {}
            answer => return answer.map(drop),
        }
    }
}

/// Whether this call was still on its way through the client when GOAWAY came: hyper had not begun it, or HTTP/2
/// refused to. What a GOAWAY without an error turns away has not been processed (RFC 9113, 6.8), and gRPC has clients
/// make it again unasked (gRFC A6, transparent retries). tonic's do not. A call that comes when the server has closed already
/// meets a broken pipe, and the client never reads the GOAWAY before it.
fn unseen(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        let not_begun = error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled);
        let refused = error.downcast_ref::<h2::Error>().is_some_and(|error| {
            error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
        });
        let too_late = error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        if not_begun || refused || too_late {
            return true;
        }
        source = error.source();
    }
    false
}

/// A call that lasts: the process that answers it goes on until it has ended.
pub(crate) fn hold(addr: SocketAddr) -> impl FnOnce() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let stream = runtime.block_on(async {
        let watched = HealthClient::new(channel(addr)).watch(HealthCheckRequest::default()).await;
        let mut stream = watched.unwrap().into_inner();
        assert!(stream.message().await.unwrap().is_some());
        stream
    });
    move || {
        drop(stream);
        drop(runtime);
    }
}

/// It connects at the first call.
fn channel(addr: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{addr}")).unwrap().connect_timeout(PATIENCE).timeout(PATIENCE).connect_lazy()
}

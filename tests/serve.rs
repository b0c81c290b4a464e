//! Running a server on the facade: what has to hold at the moment when it stops accepting.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use common::{Place, config, place};
use fd_handoff::Finish;

#[test]
fn a_service_that_ends_of_its_own_accord_stops_accepting() {
    let Place { directory: _directory, path } = place();
    let mut starting = fd_handoff::Handoff::builder(config(&path)).start().unwrap();
    let listener = starting.tcp_listener("main", "127.0.0.1:0".parse().unwrap()).unwrap();
    let mut handoff = starting.ready().unwrap();
    assert_eq!(handoff.finish().unwrap(), Finish::Exit);
    assert!(handoff.handle().is_superseded());
    assert!(listener.accept().unwrap().is_none());
}

#[cfg(feature = "tokio")]
mod on_tokio {
    use std::path::Path;

    use fd_handoff::State;
    use fd_handoff::tokio::{Acceptor, Handoff};
    use tokio::net::TcpListener;

    use super::*;

    /// A generation that serves, and its listener.
    async fn generation(path: &Path) -> (Acceptor<TcpListener>, Handoff) {
        let mut starting = Handoff::builder(config(path)).start().await.unwrap();
        let listener = starting.tcp_listener("main", "127.0.0.1:0".parse().unwrap()).unwrap();
        starting.on_release(|| State::bytes("last"));
        (listener, starting.ready().await.unwrap())
    }

    /// It accepts until it is superseded, and so do other tasks: that more than one is woken has them run at once.
    async fn server(listener: Acceptor<TcpListener>) {
        for _ in 0..4 {
            tokio::spawn(accept(listener.clone()));
        }
        accept(listener).await;
    }

    async fn accept(listener: Acceptor<TcpListener>) {
        while let Ok(Some(_)) = listener.accept().await {}
    }

    /// A server without connections ends as soon as its listener does, which is a moment before its process counts as
    /// superseded. That is no reason to stop the service.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_server_that_ends_as_soon_as_its_listener_does_hands_over() {
        let Place { directory: _directory, path } = place();
        let (mut listener, mut handoff) = generation(&path).await;
        for number in 2..100 {
            let serving = tokio::spawn(async move { handoff.serve(|_| server(listener.clone())).await });
            (listener, handoff) = generation(&path).await;
            assert_eq!(handoff.generation(), number);
            assert!(handoff.final_state().unwrap().is_some());
            serving.await.unwrap().unwrap();
        }
    }
}

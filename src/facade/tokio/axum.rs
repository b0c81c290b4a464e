//! What makes an axum service one that can be replaced: accepting that ends, and connections that clients close.

use std::io;

use ::tokio::io::{AsyncRead, AsyncWrite};
use axum::extract::State;
use axum::http::{HeaderValue, header::CONNECTION};
use axum::response::Response;

use super::accept::{Acceptor, Connection, Listener};
use super::handle::Handle;

/// With `axum::serve`: accepting ends for good when this process is superseded, and the server goes on with the
/// connections that it has.
impl<L: Listener> axum::serve::Listener for Acceptor<L>
where
    L::Stream: AsyncRead + AsyncWrite + Unpin,
{
    type Io = Connection<L::Stream>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.accept_calmly().await {
                Ok(Some(accepted)) => return accepted,
                // The server is told by other means.
                Ok(None) => std::future::pending().await,
                Err(_) => {}
            }
        }
    }

    fn local_addr(&self) -> io::Result<L::Addr> {
        Acceptor::local_addr(self)
    }
}

/// Tells the client that an answer is the last one on its connection, from the moment that this process is superseded:
/// a layer of the router, `.layer(map_response_with_state(handle, last_answer))` with axum's
/// `middleware::map_response_with_state`.
///
/// Without it, clients that keep their connections hold the old process until its drain deadline, and lose the request
/// that is just on its way then. HTTP/2 needs no header: hyper leaves it out there, and says GOAWAY.
pub async fn last_answer(State(handle): State<Handle>, mut answer: Response) -> Response {
    if handle.is_superseded() {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

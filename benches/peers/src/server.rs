//! The HTTP server of every measured service: what it answers, and how it ends.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper::{Response, server};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// How long a generation waits for its last connections before it ends.
const DRAIN: Duration = Duration::from_secs(5);
const BACKLOG: i32 = 4096;

/// A listener as each contestant is to have it. It does not block.
pub fn bind(addr: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Answers each request with the process id. Clones are the same server.
#[derive(Debug, Clone, Default)]
pub struct Server {
    ends: Arc<AtomicBool>,
    connections: TaskTracker,
}

impl Server {
    /// Accepts on a task of its own, until [`Server::stop`] or the end of the runtime.
    pub fn accept(&self, listener: Arc<tokio::net::TcpListener>) -> JoinHandle<()> {
        let server = self.clone();
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => server.serve(stream),
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        })
    }

    /// Closes the listeners of these tasks, and waits until that is done.
    pub async fn stop(&self, accepting: Vec<JoinHandle<()>>) {
        accepting.iter().for_each(JoinHandle::abort);
        for accepting in accepting {
            let _ = accepting.await;
        }
    }

    /// Serves one connection on a task of its own.
    pub fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        self.connections.spawn(self.clone().answers(stream));
    }

    /// Serves one connection to its end.
    pub async fn answers(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let answer = service_fn(|_request| async { Ok::<_, Infallible>(self.answer()) });
        let _ = server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
    }

    /// Once draining, each response closes its connection. An idle connection is left open until then: closing it
    /// would race with the request that its client is just sending.
    fn answer(&self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(format!("{}\n", std::process::id()))));
        if self.ends.load(SeqCst) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// From here on each answer is the last one on its connection.
    pub fn begin_drain(&self) {
        self.ends.store(true, SeqCst);
    }

    /// Waits for the last connection, as long as that may take.
    pub async fn drained(&self) {
        self.begin_drain();
        self.connections.close();
        let _ = tokio::time::timeout(DRAIN, self.connections.wait()).await;
    }
}

//! Gives descriptors to whoever asks, once: `giver DIR blocking|tokio|bare listeners|pipes COUNT`. It says `serving`
//! when it can be asked.

use std::error::Error;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use fd_handoff::Offer;
use peers::bare::{BATCH, ENTRY, FRAME, expect, receive, send};
use peers::{Args, bind, stamp};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, form, kind, count] = args.as_slice() else { return Err("giver DIR FORM KIND COUNT".into()) };
    let count = count.parse()?;
    let fds = if kind == "pipes" { pipes(count)? } else { listeners(count)? };
    let path = Path::new(dir).join("control.sock");
    match form.as_str() {
        "blocking" => blocking(&path, &fds),
        "tokio" => on_tokio(&path, &fds),
        _ => bare(&path, &fds),
    }
}

/// One free port of many loopback addresses: to find many free ports of one takes the kernel long.
fn listeners(count: usize) -> io::Result<Vec<OwnedFd>> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let args = Args { port, listeners: count, ..Args::default() };
    args.addresses().map(|addr| bind(addr, false).map(OwnedFd::from)).collect()
}

fn pipes(count: usize) -> io::Result<Vec<OwnedFd>> {
    let pipes = (0..count.div_ceil(2)).map(|_| io::pipe()).collect::<io::Result<Vec<_>>>()?;
    let ends = pipes.into_iter().flat_map(|(reader, writer)| [OwnedFd::from(reader), OwnedFd::from(writer)]);
    Ok(ends.take(count).collect())
}

fn blocking(path: &Path, fds: &[OwnedFd]) -> Result<(), Box<dyn Error>> {
    let control = fd_handoff::handoff_listen(path)?;
    // Made beforehand: what a service offers does not depend on who asks.
    let offer = Offer::new().group("fd", fds);
    stamp("serving");
    let ready = control.accept()?.offer(offer)?;
    ready.release(None)?.farewell(None)?;
    Ok(())
}

#[tokio::main]
async fn on_tokio(path: &Path, fds: &[OwnedFd]) -> Result<(), Box<dyn Error>> {
    let control = fd_handoff::tokio::handoff_listen(path).await?;
    let offer = Offer::new().group("fd", fds);
    stamp("serving");
    let ready = control.accept().await?.offer(offer).await?;
    ready.release(None).await?.farewell(None).await?;
    Ok(())
}

/// The same bytes and descriptors in the same order.
fn bare(path: &Path, fds: &[OwnedFd]) -> Result<(), Box<dyn Error>> {
    let control = UnixListener::bind(path)?;
    stamp("serving");
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let (stream, _) = control.accept()?;
    send(&stream, FRAME, &[])?;
    expect(&stream, FRAME)?;
    send(&stream, FRAME, &[stream.as_fd()])?;
    for batch in fds.chunks(BATCH) {
        send(&stream, FRAME + ENTRY * batch.len(), batch)?;
        expect(&stream, FRAME)?;
    }
    expect(&stream, FRAME)?;
    send(&stream, FRAME, &[])?;
    expect(&stream, FRAME)?;
    // Until the other side has closed its end, so that what it has received is there to be counted.
    let _ = receive(&stream, 1, &mut Vec::new());
    Ok(())
}

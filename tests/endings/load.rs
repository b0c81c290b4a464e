//! Clients that make requests all the time, and note what became of each.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::clients::{Check, Clients, require};
use crate::process::{Client, World};

/// How long a client rests between two connections, and each second one between two requests, too.
const REST: Duration = Duration::from_millis(3);

/// A connection that was answered, or not.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    /// Who answered first.
    pub(crate) pid: Option<u32>,
    /// What the kernel said of a connection that could not be made.
    pub(crate) refused: Option<String>,
    pub(crate) lost: bool,
    /// How many requests were answered.
    pub(crate) answered: u64,
}

/// Clients at work.
pub(crate) type Load = Clients<Sample>;

impl Load {
    /// So many clients, who make so many requests on each connection.
    pub(crate) fn start(world: &World, clients: usize, requests: usize) -> Load {
        let addr = world.addr;
        Clients::all((0..clients).map(|number| {
            move |stop: &AtomicBool, answered: &AtomicU64| {
                let mut samples = Vec::new();
                while !stop.load(SeqCst) {
                    samples.push(visit(addr, requests, number % 2 == 1, answered));
                    std::thread::sleep(REST);
                }
                samples
            }
        }))
    }
}

fn visit(addr: SocketAddr, requests: usize, rests: bool, answered: &AtomicU64) -> Sample {
    let began = Instant::now();
    let mut sample = Sample { began, ended: began, pid: None, refused: None, lost: false, answered: 0 };
    match Client::open(addr) {
        Err(error) => sample.refused = Some(error.to_string()),
        Ok(mut client) => {
            for _ in 0..requests {
                if rests {
                    std::thread::sleep(REST);
                }
                match client.exchange() {
                    Ok(answer) => {
                        answered.fetch_add(1, SeqCst);
                        sample.answered += 1;
                        if sample.pid.is_none() {
                            sample.pid = Some(answer.pid);
                            sample.ended = Instant::now();
                        }
                    }
                    Err(_) => {
                        sample.lost = true;
                        break;
                    }
                }
            }
        }
    }
    if sample.pid.is_none() {
        sample.ended = Instant::now();
    }
    sample
}

pub(crate) fn none_refused(samples: &[Sample]) -> Check {
    let refused = samples.iter().find(|sample| sample.refused.is_some());
    require(refused.is_none(), || format!("a client was refused: {refused:?}"))
}

pub(crate) fn none_lost(samples: &[Sample]) -> Check {
    let lost = samples.iter().find(|sample| sample.lost);
    require(lost.is_none(), || format!("a client was not answered: {lost:?}"))
}

/// The service went from each of these to the next: after the first answer of one, nobody before it answers a connection
/// that is made later.
pub(crate) fn one_at_a_time(samples: &[Sample], owners: &[u32]) -> Check {
    let of = |pid: u32| samples.iter().filter(move |sample| sample.pid == Some(pid));
    let stranger = samples.iter().find(|sample| sample.pid.is_some_and(|pid| !owners.contains(&pid)));
    require(stranger.is_none(), || format!("a stranger has answered: {stranger:?}"))?;
    for (place, owner) in owners.iter().enumerate() {
        let Some(first) = of(*owner).map(|sample| sample.ended).min() else { continue };
        let late = owners[..place].iter().find_map(|before| of(*before).find(|sample| sample.began > first));
        require(late.is_none(), || format!("process {owner} serves, and then answers {late:?}"))?;
    }
    Ok(())
}

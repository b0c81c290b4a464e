//! Processes that listen on a socket which had this path once, and which the path no longer leads to: its directory, or
//! the socket itself, was removed or replaced.

use std::fs;
use std::path::{Path, PathBuf};

use fd_handoff::client::Client;

/// The flag of a listening socket in `/proc/net/unix`: `__SO_ACCEPTCON`.
const LISTENS: &str = "00010000";

/// A socket that nobody can connect to any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stray {
    /// Who has it open, as far as that can be seen.
    pids: Vec<u32>,
}

impl Stray {
    /// Who listens on it, in a sentence.
    pub(super) fn who(&self) -> String {
        match &self.pids[..] {
            [] => "another process".to_owned(),
            [pid] => format!("process {pid}"),
            // A predecessor that drains has a copy.
            pids => format!("one of the processes {}", pids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")),
        }
    }
}

/// Those beside the one that the path leads to: `reached` is the service that listens on that one, if there is one.
pub(super) fn of(path: &Path, reached: Option<&Client>) -> Vec<Stray> {
    let Ok(table) = fs::read_to_string("/proc/net/unix") else { return Vec::new() };
    let names = [std::path::absolute(path).unwrap_or_else(|_| path.to_owned()), path.to_owned()];
    let listening = listeners(&table, |name| names.iter().any(|path| had_name(path, name)));
    if listening.len() <= usize::from(reached.is_some()) {
        return Vec::new();
    }
    let holders: Vec<Vec<u32>> = listening.into_iter().map(holders).collect();
    let service = reached.map(|client| client.process().and_then(|process| process.id()));
    beside(holders.into_iter().filter(|pids| pids.is_empty() || pids.iter().any(|pid| sees_our_files(*pid))), service)
}

/// Who listens on the others, of sockets that these processes hold each. The one that is reached is held by `service`; where
/// that is not known, nobody can tell which of them it is.
fn beside(holders: impl Iterator<Item = Vec<u32>>, service: Option<Option<u32>>) -> Vec<Stray> {
    let strays = |holders: Vec<Vec<u32>>| holders.into_iter().map(|pids| Stray { pids }).collect();
    let mut holders: Vec<Vec<u32>> = holders.collect();
    match service {
        None => strays(holders),
        Some(Some(pid)) if holders.iter().any(|pids| pids.contains(&pid)) => {
            holders.retain(|pids| !pids.contains(&pid));
            strays(holders)
        }
        Some(_) => holders.iter().skip(1).map(|_| Stray { pids: Vec::new() }).collect(),
    }
}

/// The inodes of the sockets that somebody listens on and whose name is wanted.
fn listeners(table: &str, wanted: impl Fn(&str) -> bool) -> Vec<u64> {
    table.lines().filter_map(|line| listener(line, &wanted)).collect()
}

/// `Num RefCount Protocol Flags Type St Inode Path`, see `proc_net(5)`.
fn listener(line: &str, wanted: impl Fn(&str) -> bool) -> Option<u64> {
    let mut rest = line;
    let mut fields = [""; 7];
    for field in &mut fields {
        (*field, rest) = rest.trim_start().split_once(' ')?;
    }
    (fields[3] == LISTENS && wanted(rest)).then(|| fields[6].parse().ok())?
}

/// Whether a socket with this name was made for the path. One that replaced a stale socket was bound beside it, as
/// `PATH.PID`, and keeps that name, which then leads nowhere.
fn had_name(path: &Path, name: &str) -> bool {
    let Some(rest) = path.to_str().and_then(|path| name.strip_prefix(path)) else { return false };
    let beside = rest.strip_prefix('.').is_some_and(|pid| pid.parse::<u32>().is_ok());
    rest.is_empty() || (beside && PathBuf::from(name).symlink_metadata().is_err())
}

/// The processes that have the socket open, as far as this user may see.
fn holders(inode: u64) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| has_open(*pid, inode)).collect()
}

fn has_open(pid: u32, inode: u64) -> bool {
    let socket = format!("socket:[{inode}]");
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors.flatten().any(|entry| fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == socket.as_str()))
}

/// In another mount namespace, the same path leads elsewhere.
fn sees_our_files(pid: u32) -> bool {
    let own = fs::read_link("/proc/self/ns/mnt").ok();
    fs::read_link(format!("/proc/{pid}/ns/mnt")).map_or(true, |theirs| Some(theirs) == own)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 18001 /run/app/http.sock
0000000000000000: 00000003 00000000 00000000 0001 03 18002 /run/app/http.sock
0000000000000000: 00000002 00000000 00010000 0001 01   733 /run/app/with space.sock
0000000000000000: 00000002 00000000 00010000 0001 01 18004 /run/app/http.sock.4711
0000000000000000: 00000002 00000000 00010000 0001 01 18005 /run/app/http.sock.old
0000000000000000: 00000003 00000000 00000000 0001 03 18006
";

    #[test]
    fn listeners_are_found_by_the_path_that_they_were_made_for() {
        let found = |path: &str| listeners(TABLE, |name| had_name(Path::new(path), name));
        assert_eq!(found("/run/app/http.sock"), [18001, 18004]);
        assert_eq!(found("/run/app/with space.sock"), [733]);
        assert!(found("/run/app").is_empty());
    }

    #[test]
    fn the_socket_of_the_service_that_is_reached_is_no_stray() {
        let found = |service| beside([vec![40, 41], vec![50]].into_iter(), service);
        let told = |service| found(service).iter().map(Stray::who).collect::<Vec<_>>();
        assert_eq!(told(None), ["one of the processes 40, 41", "process 50"]);
        assert_eq!(told(Some(Some(41))), ["process 50"]);
        assert_eq!(told(Some(Some(50))), ["one of the processes 40, 41"]);
        assert_eq!(told(Some(None)), ["another process"]);
        assert_eq!(beside([vec![40]].into_iter(), Some(None)), []);
    }
}

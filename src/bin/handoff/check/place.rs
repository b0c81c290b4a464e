//! The path, its directory, and what is there already.

use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use fd_handoff::client::Client;
use fd_handoff::{Error, PathProblem};
use nix::unistd::{AccessFlags, access, geteuid};

use super::strays::{self, Stray};
use super::{Finding, lost_by};

/// The longest path that fits a socket's address, see `unix(7)`.
const SHORT_PATH: usize = 107;
/// Others than the owner may write.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// Nobody but its owner removes or renames a file.
const STICKY: u32 = 0o1000;

pub(super) fn look(path: &Path, service: Result<Client, Error>) -> Vec<Finding> {
    vec![path_length(path, &service), directory(path), socket(path, service)]
}

/// The directory that the path is in.
pub(super) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn path_length(path: &Path, service: &Result<Client, Error>) -> Finding {
    const CHECK: &str = "path";
    let Some(name) = path.file_name() else {
        return Finding::failed(
            CHECK,
            format!("{} does not end in a file name", path.display()),
            "choose another path",
        );
    };
    let (whole, name) = (path.as_os_str().as_bytes().len(), name.as_bytes().len());
    let found = format!("{whole} bytes, {name} of them the file name");
    // The library's own limit, by its own word.
    if let Err(Error::Path { problem: problem @ PathProblem::NameTooLong(_), .. }) = service {
        return Finding::failed(CHECK, format!("{found}: {problem}"), "choose a shorter file name");
    }
    if whole > SHORT_PATH {
        let advice = format!("nothing, if fd-handoff alone connects: other tools reach at most {SHORT_PATH} bytes");
        return Finding::warning(CHECK, found, advice);
    }
    Finding::ok(CHECK, found)
}

fn directory(path: &Path) -> Finding {
    const CHECK: &str = "directory";
    let directory = directory_of(path);
    let at = directory.display();
    let found = match directory.metadata() {
        Ok(found) => found,
        Err(error) => {
            return Finding::failed(
                CHECK,
                format!("{at}: {error}"),
                "create it, owned by the service's user and with mode 0700 (in systemd: RuntimeDirectory=)",
            );
        }
    };
    if !found.is_dir() {
        return Finding::failed(CHECK, format!("{at} is not a directory"), "choose another path");
    }
    let about = format!("{at}: owner {}, mode {:04o}", found.uid(), found.mode() & 0o7777);
    if access(directory, AccessFlags::W_OK | AccessFlags::X_OK).is_err() {
        let advice = format!("give it to user {}, or run the service as user {}", geteuid(), found.uid());
        return Finding::failed(CHECK, format!("{about}, not writable for user {}", geteuid()), advice);
    }
    judge_directory(about, &Access::of(&found), geteuid().as_raw())
}

/// Who may change what is in a directory.
struct Access {
    owner: u32,
    mode: u32,
}

impl Access {
    fn of(metadata: &Metadata) -> Access {
        Access { owner: metadata.uid(), mode: metadata.mode() }
    }
}

fn judge_directory(about: String, access: &Access, user: u32) -> Finding {
    const CHECK: &str = "directory";
    if access.mode & WRITABLE_BY_OTHERS != 0 && access.mode & STICKY == 0 {
        let found =
            format!("{about}, writable for others than its owner: they can put a socket of theirs in the place");
        return Finding::warning(CHECK, found, "take the permission away (chmod go-w), or choose another directory");
    }
    if access.owner != user && access.owner != 0 {
        let found = format!("{about}: that user can put a socket of its own in the place");
        return Finding::warning(CHECK, found, format!("choose a directory that belongs to user {user} or to root"));
    }
    Finding::ok(CHECK, format!("{about}, writable"))
}

fn socket(path: &Path, service: Result<Client, Error>) -> Finding {
    const CHECK: &str = "socket";
    let there = path.symlink_metadata().ok();
    let owner = there.as_ref().map(Metadata::uid);
    match service {
        Ok(client) => {
            let hello = client.hello();
            let (name, generation, pid) = (&hello.name, hello.generation, hello.pid);
            let found = format!("a service runs there: {name}, generation {generation}, process {pid}");
            match strays::of(path, Some(&client)).first() {
                None => Finding::ok(CHECK, format!("{found}; a new process takes over from it")),
                Some(stray) => beside(&found, stray),
            }
        }
        Err(Error::Path { problem: PathProblem::NobodyThere, .. }) => {
            superseded(path).unwrap_or_else(|| nobody(owner, path))
        }
        Err(Error::Path { problem: PathProblem::NotASocket, .. }) => {
            Finding::failed(CHECK, "there is something that is not a socket", "move it away, or choose another path")
        }
        Err(Error::Path { problem: PathProblem::NoDirectory, .. }) => superseded(path).unwrap_or_else(not_looked_for),
        Err(Error::Path { problem: PathProblem::NameTooLong(_) | PathProblem::NoName, .. }) => not_looked_for(),
        Err(Error::NoAnswer { after }) => Finding::warning(
            CHECK,
            format!("somebody listens there, and does not answer within {after:?}"),
            "look at the process that listens there: a new one cannot take over from it as it is",
        ),
        Err(Error::Path { problem, .. }) => not_usable(&problem, owner),
        Err(error) => not_usable(&error, owner),
    }
}

fn not_looked_for() -> Finding {
    Finding::warning("socket", "not looked for", "see to what failed above")
}

/// Nobody listens at the path, while a service runs that had it.
fn superseded(path: &Path) -> Option<Finding> {
    let who = lost_by(path)?;
    Some(Finding::failed(
        "socket",
        format!(
            "{who} listens on a socket that had this path, and the path does not lead to it any more: its directory, or the \
             socket, was removed or replaced"
        ),
        format!(
            "a start here is a cold one, beside the service that runs: end {who} first; and let nothing clean that directory \
             up while it runs"
        ),
    ))
}

/// Two listen, and one of them cannot be reached.
fn beside(found: &str, stray: &Stray) -> Finding {
    let who = stray.who();
    Finding::warning(
        "socket",
        format!(
            "{found}; and {who} listens on another socket that had this path: its directory, or the socket, was removed or \
             replaced"
        ),
        format!("see whether {who} is a service that was to be replaced, and end it"),
    )
}

fn not_usable(why: &dyn std::fmt::Display, owner: Option<u32>) -> Finding {
    let owner = owner.map_or_else(String::new, |owner| format!(" (user {owner})"));
    Finding::failed("socket", why.to_string(), format!("run this as the service's user{owner}, or choose another path"))
}

fn nobody(owner: Option<u32>, path: &Path) -> Finding {
    const CHECK: &str = "socket";
    let Some(owner) = owner else { return Finding::ok(CHECK, "there is none yet: the next start is a cold one") };
    let found = format!("one of user {owner} is left over from a process that died");
    let user = geteuid().as_raw();
    let sticky = directory_of(path).metadata().is_ok_and(|found| found.mode() & STICKY != 0);
    if sticky && user != 0 && user != owner {
        let found = format!("{found}, and user {user} cannot replace it");
        return Finding::failed(CHECK, found, format!("remove {} as user {owner} or as root", path.display()));
    }
    Finding::ok(CHECK, format!("{found}: the next start replaces it"))
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn verdict(owner: u32, mode: u32) -> Verdict {
        judge_directory("/run/app".to_owned(), &Access { owner, mode }, 1000).verdict
    }

    #[test]
    fn whoever_may_replace_the_socket_is_warned_of() {
        assert_eq!(verdict(1000, 0o40700), Verdict::Ok);
        assert_eq!(verdict(0, 0o40755), Verdict::Ok);
        assert_eq!(verdict(0, 0o41777), Verdict::Ok);
        assert_eq!(verdict(1000, 0o40770), Verdict::Warning);
        assert_eq!(verdict(0, 0o40777), Verdict::Warning);
        assert_eq!(verdict(1001, 0o40755), Verdict::Warning);
    }

    #[test]
    fn a_bare_name_is_in_this_directory() {
        assert_eq!(directory_of(Path::new("app.sock")), Path::new("."));
        assert_eq!(directory_of(Path::new("/run/app.sock")), Path::new("/run"));
    }

    #[test]
    fn a_path_that_is_long_as_a_whole_still_works_and_a_long_name_does_not() {
        let verdict = |path: &Path| path_length(path, &Client::connect(path)).verdict;
        assert_eq!(verdict(&Path::new("/").join("d".repeat(120)).join("app.sock")), Verdict::Warning);
        assert_eq!(verdict(&Path::new("/run").join("n".repeat(81))), Verdict::Failed);
        assert_eq!(verdict(Path::new("/")), Verdict::Failed);
    }
}

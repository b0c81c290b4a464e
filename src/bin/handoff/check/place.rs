//! The path, its directory, and what is there already.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fd_handoff::client::Client;
use fd_handoff::{Error, PathProblem};
use nix::unistd::{AccessFlags, access, geteuid};

use super::strays::{self, Stray};
use super::{Finding, lost_by, surroundings};

/// The longest path that fits a socket's address, see `unix(7)`.
const SHORT_PATH: usize = 107;
/// Others than the owner may write.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// Nobody but its owner removes or renames a file.
const STICKY: u32 = 0o1000;

pub(super) fn look(path: &Path, service: Result<Client, Error>) -> Vec<Finding> {
    let found = [path_length(path, &service), directory(path)].into_iter();
    found.chain(volume(directory_of(path))).chain([socket(path, service)]).collect()
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
        let advice =
            format!("give it to user {}, or run the service as user {}{}", geteuid(), found.uid(), of_a_volume());
        return Finding::failed(CHECK, format!("{about}, not writable for user {}", geteuid()), advice);
    }
    judge_directory(about, &Access::of(&found), geteuid().as_raw())
}

/// What to know of a volume's owner, in a container.
fn of_a_volume() -> &'static str {
    if !surroundings::is_container() {
        return "";
    }
    "; a new, empty volume takes its owner and mode from that directory in the image"
}

/// Whether another container can have the directory, too. On a host there is no such question.
fn volume(directory: &Path) -> Option<Finding> {
    if !surroundings::is_container() {
        return None;
    }
    let directory = directory.canonicalize().ok()?;
    let mounts = fs::read("/proc/self/mountinfo").ok()?;
    Some(judge_volume(&directory, mount_of(&directory, &mounts)?))
}

fn judge_volume(directory: &Path, mount: Mount) -> Finding {
    const CHECK: &str = "volume";
    let at = directory.display();
    if mount.point == Path::new("/") {
        return Finding::warning(
            CHECK,
            format!("{at} is in this container's own file system: no other container finds the service there"),
            "mount a volume, or a directory of the host's, there, and the same in the next container; one whose service is replaced \
             within it (handoff run) needs none",
        );
    }
    Finding::ok(
        CHECK,
        format!("{} is mounted ({}): the next container has to have the same", mount.point.display(), mount.kind),
    )
}

/// A mounted file system.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    kind: String,
}

/// The one that a directory is in: of those above it the nearest, and the last of several at one place. See `proc_pid_mountinfo(5)`.
fn mount_of(directory: &Path, mounts: &[u8]) -> Option<Mount> {
    let mounts = mounts.split(|byte| *byte == b'\n').filter_map(parse_mount);
    mounts.filter(|mount| directory.starts_with(&mount.point)).max_by_key(|mount| mount.point.components().count())
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`
fn parse_mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let point = PathBuf::from(OsString::from_vec(unescaped(fields.nth(4)?)));
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Mount { point, kind: String::from_utf8_lossy(kind).into_owned() })
}

/// A space, a tab, a line feed and a backslash are three octal digits behind a backslash.
fn unescaped(mut field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    loop {
        match *field {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ref rest @ ..] => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                field = rest;
            }
            [byte, ref rest @ ..] => {
                plain.push(byte);
                field = rest;
            }
            [] => return plain,
        }
    }
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
    fn a_directory_that_no_other_container_has_is_a_warning() {
        let mounts = b"1 0 0:50 / / rw - overlay overlay rw,upperdir=/up\n\
            2 1 8:1 /vol /run/app rw master:1 - ext4 /dev/sda1 rw\n\
            3 1 0:51 / /run/my\\040app rw - tmpfs tmpfs rw\n\
            4 2 8:2 / /run/app rw - xfs /dev/sdb1 rw\n";
        let judge = |directory: &str| {
            let directory = Path::new(directory);
            judge_volume(directory, mount_of(directory, mounts).unwrap())
        };
        assert_eq!(judge("/run/apps").verdict, Verdict::Warning);
        assert_eq!(judge("/").verdict, Verdict::Warning);
        let inside = judge("/run/app/inside");
        assert_eq!(
            (inside.verdict, &*inside.found),
            (Verdict::Ok, "/run/app is mounted (xfs): the next container has to have the same")
        );
        assert!(judge("/run/my app").found.starts_with("/run/my app is mounted (tmpfs)"));
        assert_eq!(mount_of(Path::new("/run"), b"garbage\n"), None);
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

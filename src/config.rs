//! How a service wants its handoffs: one configuration for both roles.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::UnixCredentials;

use crate::core::Waits;
use crate::core::wire::{MAX_INSTANCE, MAX_TEXT, shorten};
use crate::error::{Error, Result, StateError};
use crate::sys::container;

/// A century. [`Duration::MAX`] added to a moment overflows.
pub(crate) const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The configuration of a service's handoffs. A path alone makes one with every default.
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) path: PathBuf,
    /// What somebody has chosen.
    pub(crate) name: Option<String>,
    pub(crate) replaces: Vec<String>,
    pub(crate) version: String,
    pub(crate) peers: PeerPolicy,
    pub(crate) mode: u32,
    pub(crate) schemas: Vec<u32>,
    /// The types that are read, each with the fingerprint of its shape, or why there is none.
    pub(crate) reads: Vec<(&'static str, Result<u64, String>)>,
    pub(crate) strict: bool,
    pub(crate) foreign_netns: bool,
    pub(crate) cold_start: bool,
    /// Who this process is to its operator: what was chosen, or that nothing is to be.
    pub(crate) instance: Option<String>,
    pub(crate) take: bool,
    /// Whether this process keeps the service, and does not serve.
    pub(crate) standby: bool,
    pub(crate) timeouts: Timeouts,
}

/// How long each side waits for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// A cold start, for another process that is starting at the same path. 60 s.
    pub lock: Duration,
    /// The successor, for the predecessor's offer: encoding the state is in it. 60 s.
    pub offer: Duration,
    /// Either side, for the next step of the transfer. 10 s.
    pub transfer: Duration,
    /// The predecessor, for `ready`; each `progress` begins it anew. 60 s. An upgrade that was asked for (by a signal,
    /// at the control socket, with [`Handle::upgrade`](crate::Handle::upgrade)) has this long in all, whatever progress
    /// it makes, unless whoever asked has named a time.
    pub ready: Duration,
    /// The successor, for `release` after its `ready`, and for the death of a predecessor that has closed the connection
    /// without a word. 30 s.
    pub release: Duration,
    /// The predecessor, for `active` after its `release`. 5 s; then a silent successor is killed.
    pub active: Duration,
    /// The application of a predecessor whose successor is ready: to stop accepting (to call
    /// [`finish`](crate::Handoff::finish) once it is superseded), to give its final state, and to give its last one: each
    /// has this long. Where one of the first two takes longer, the handoff fails and this process serves on; a last state
    /// that comes later is lost. [`Handoff`](crate::Handoff) keeps it; for the two calls it means nothing. 10 s.
    pub hook: Duration,
    /// How long the predecessor may drain, after which its successor no longer waits for its farewell. 30 s.
    pub drain: Duration,
    /// How long after `active` the predecessor goes on watching its successor, though it has drained: one that
    /// crashes in its first moments is taken back from. A successor that stops or hands over in good order ends it
    /// early. 1 s.
    pub probation: Duration,
    /// A successor that this process has started and that did not take the service, from SIGTERM to SIGKILL. 5 s.
    pub end: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            lock: Duration::from_secs(60),
            offer: Duration::from_secs(60),
            transfer: Duration::from_secs(10),
            ready: Duration::from_secs(60),
            release: Duration::from_secs(30),
            active: Duration::from_secs(5),
            hook: Duration::from_secs(10),
            drain: Duration::from_secs(30),
            probation: Duration::from_secs(1),
            end: Duration::from_secs(5),
        }
    }
}

impl Timeouts {
    pub(crate) fn waits(&self) -> Waits {
        Waits {
            offer: self.offer.min(FOREVER),
            transfer: self.transfer.min(FOREVER),
            ready: self.ready.min(FOREVER),
            release: self.release.min(FOREVER),
            active: self.active.min(FOREVER),
            drain: self.drain.min(FOREVER),
            probation: self.probation.min(FOREVER),
        }
    }
}

impl Config {
    /// A configuration for the control socket at `path`, with every default.
    pub fn new(path: impl Into<PathBuf>) -> Config {
        Config {
            path: path.into(),
            name: None,
            replaces: Vec::new(),
            version: "unknown".to_owned(),
            peers: PeerPolicy::default(),
            mode: 0o600,
            schemas: vec![0],
            reads: Vec::new(),
            strict: false,
            foreign_netns: false,
            cold_start: true,
            instance: None,
            take: false,
            standby: false,
            timeouts: Timeouts::default(),
        }
    }

    /// The service's name. A program that has one takes over a service of this name alone, unless
    /// [`replaces`](Config::replaces) says more; a service that has one refuses whoever names others.
    ///
    /// Default: the program's file name, which is for people, and compared with nothing: it may change from one version to the
    /// next.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Config {
        self.name = Some(name.into());
        self
    }

    /// A service of this name may be taken over too: one that has been renamed, or that this program is to take the place
    /// of. May be said 15 times. Default: none.
    #[must_use]
    pub fn replaces(mut self, name: impl Into<String>) -> Config {
        self.replaces.push(name.into());
        self
    }

    /// The application's version, for people. Default: `unknown`.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Config {
        self.version = version.into();
        self
    }

    /// Who may be at the other end, in either role. Default: [`PeerPolicy::default`].
    #[must_use]
    pub fn peers(mut self, peers: PeerPolicy) -> Config {
        self.peers = peers;
        self
    }

    /// The permission bits of the control socket's path. Default: `0o600`. A policy that allows other users
    /// needs bits that let them connect.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Config {
        self.mode = mode;
        self
    }

    /// The state schemas that this program reads. Default: 0 alone, which is also the schema of a
    /// [`State`](crate::State) that says none. A predecessor whose snapshot or final state has another one fails the handoff
    /// before it gives anything up.
    #[must_use]
    pub fn schemas(mut self, schemas: impl IntoIterator<Item = u32>) -> Config {
        self.schemas = schemas.into_iter().collect();
        self
    }

    /// A type that this program reads states as with [`Received::serde`](crate::Received::serde). A predecessor whose
    /// snapshot or final state has a shape of none of the types that are named so fails the handoff before it gives
    /// anything up. May be said 64 times.
    ///
    /// Default: none is named, and what comes is compared when it is read. For a snapshot that is before `ready`, and early
    /// enough; a final state is read when the service is this process's already.
    ///
    /// A type whose shape cannot be seen, see [`State::serde`](crate::State::serde), is an error of whatever is begun with
    /// this configuration.
    #[cfg(feature = "bincode")]
    #[must_use]
    pub fn reads<T: serde::de::DeserializeOwned>(mut self) -> Config {
        let shape = crate::state::shape::Shape::of::<T>();
        self.reads.push((std::any::type_name::<T>(), shape.map(|shape| shape.fingerprint())));
        self
    }

    /// The fingerprints of the types that are named, if any are.
    ///
    /// # Errors
    ///
    /// [`StateError::Unseen`].
    pub(crate) fn fingerprints(&self) -> Result<Option<Vec<u64>>, StateError> {
        let fingerprint = |(type_name, shape): &(&'static str, Result<u64, String>)| {
            shape.clone().map_err(|problem| StateError::Unseen { type_name, problem })
        };
        (!self.reads.is_empty()).then(|| self.reads.iter().map(fingerprint).collect()).transpose()
    }

    /// The service's name as it is told.
    pub(crate) fn shown_name(&self) -> String {
        shorten(self.name.as_ref().unwrap_or(&program_name()), MAX_TEXT)
    }

    /// The names of the services that this program takes over, unless it takes any.
    pub(crate) fn services(&self) -> Option<Vec<String>> {
        let names = self.name.iter().chain(&self.replaces);
        let services: Vec<String> = names.map(|name| shorten(name, MAX_TEXT)).collect();
        (!services.is_empty()).then_some(services)
    }

    /// Whether a descriptor that was handed over and not taken is an error at `ready`. Default: a warning.
    #[must_use]
    pub fn strict(mut self, strict: bool) -> Config {
        self.strict = strict;
        self
    }

    /// Whether to accept sockets of another network namespace, which go silent when that namespace's last
    /// process is gone. Default: no.
    #[must_use]
    pub fn allow_foreign_netns(mut self, allow: bool) -> Config {
        self.foreign_netns = allow;
        self
    }

    /// Whether `handoff_receive` starts the service anew where nobody runs it. Default: yes.
    #[must_use]
    pub fn cold_start(mut self, cold_start: bool) -> Config {
        self.cold_start = cold_start;
        self
    }

    /// Who this process is to its operator: one container, one unit; the same after a restart of it, and never the same for two.
    ///
    /// An instance that another one has superseded does not take the service back when it is started again, as `restart: always` does: it
    /// is told `superseded`, and [`Handoff`](crate::Handoff) waits as a [`Keeper`](crate::Keeper) until it is stopped. [`Config::take`] is
    /// the way to roll back to it, as is another name.
    ///
    /// Default: the environment variable `HANDOFF_INSTANCE`; or else, in a container, its id in `/proc/self/cgroup`, or the upper
    /// directory of its root file system (`/proc/self/mountinfo`). Where there is neither, and where the name is empty, nothing is
    /// certain, and nothing is refused. At most 128 bytes.
    #[must_use]
    pub fn instance(mut self, instance: impl Into<String>) -> Config {
        self.instance = Some(instance.into());
        self
    }

    /// Takes the service over though this instance was superseded: a rollback. Default: no, unless the environment variable
    /// `HANDOFF_TAKE` is `1`. It is for one start: whoever is started with it again takes the service again.
    #[must_use]
    pub fn take(mut self, take: bool) -> Config {
        self.take = take;
        self
    }

    /// The instance that this process is, if that is certain.
    pub(crate) fn own_instance(&self) -> Option<String> {
        let named = self.instance.clone().or_else(|| std::env::var("HANDOFF_INSTANCE").ok());
        let instance = named.or_else(|| container::id().map(str::to_owned))?;
        (!instance.is_empty()).then(|| shorten(&instance, MAX_INSTANCE))
    }

    /// Whether it takes the service though it was superseded.
    pub(crate) fn takes(&self) -> bool {
        self.take || std::env::var_os("HANDOFF_TAKE").is_some_and(|take| take == "1")
    }

    /// How long each side waits for the other.
    #[must_use]
    pub fn timeouts(mut self, set: impl FnOnce(&mut Timeouts)) -> Config {
        set(&mut self.timeouts);
        self
    }
}

/// A path, in whatever form it comes, is a configuration with every default.
macro_rules! from_path {
    ($($path:ty),* $(,)?) => {
        $(impl From<$path> for Config {
            fn from(path: $path) -> Config {
                Config::new(path)
            }
        })*
    };
}

from_path!(&str, String, &String, &OsStr, OsString, &OsString, &Path, PathBuf, &PathBuf, Box<Path>);

impl From<Cow<'_, str>> for Config {
    fn from(path: Cow<'_, str>) -> Config {
        Config::new(path.into_owned())
    }
}

impl From<Cow<'_, Path>> for Config {
    fn from(path: Cow<'_, Path>) -> Config {
        Config::new(path)
    }
}

/// Which processes may be at the other end of the control socket, by the user and group that the kernel
/// reports (`SO_PEERCRED`, see `unix(7)`). Never by process id: across pid namespaces it reads 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerPolicy {
    own_user: bool,
    root: bool,
    uids: Vec<u32>,
    gids: Vec<u32>,
}

impl Default for PeerPolicy {
    /// This process's own effective user, and root.
    fn default() -> PeerPolicy {
        PeerPolicy { own_user: true, root: true, uids: Vec::new(), gids: Vec::new() }
    }
}

impl PeerPolicy {
    /// Nobody, until allowed.
    pub fn nobody() -> PeerPolicy {
        PeerPolicy { own_user: false, root: false, uids: Vec::new(), gids: Vec::new() }
    }

    /// Allows a user as well.
    #[must_use]
    pub fn allow_uid(mut self, uid: u32) -> PeerPolicy {
        self.uids.push(uid);
        self
    }

    /// Allows processes whose effective group is this one as well.
    #[must_use]
    pub fn allow_gid(mut self, gid: u32) -> PeerPolicy {
        self.gids.push(gid);
        self
    }

    pub(crate) fn check(&self, peer: &UnixCredentials) -> Result<()> {
        let (uid, gid) = (peer.uid(), peer.gid());
        let allowed = (self.own_user && uid == nix::unistd::geteuid().as_raw())
            || (self.root && uid == 0)
            || self.uids.contains(&uid)
            || self.gids.contains(&gid);
        if allowed { Ok(()) } else { Err(Error::PeerDenied { uid, gid }) }
    }
}

fn program_name() -> String {
    let program = std::env::args_os().next().map(PathBuf::from);
    let name = program.as_deref().and_then(Path::file_name);
    name.map_or_else(|| "unnamed".to_owned(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_any_form_is_a_configuration() {
        let path = "/run/app.sock";
        let forms: [Config; 13] = [
            path.into(),
            path.to_owned().into(),
            (&path.to_owned()).into(),
            OsStr::new(path).into(),
            OsString::from(path).into(),
            (&OsString::from(path)).into(),
            Path::new(path).into(),
            PathBuf::from(path).into(),
            (&PathBuf::from(path)).into(),
            Path::new(path).to_owned().into_boxed_path().into(),
            Cow::Borrowed(path).into(),
            Path::new(path).to_string_lossy().into(),
            Cow::Borrowed(Path::new(path)).into(),
        ];
        assert!(forms.iter().all(|config| config.path == Path::new(path)));
    }
}

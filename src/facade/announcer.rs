//! Telling the world outside which process serves: the pidfile and the service manager.

#[cfg(feature = "systemd")]
mod manager;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::core::wire::Event;

/// Where to tell it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Announcer {
    pub(super) pidfile: Option<PathBuf>,
    /// Another unit's process has taken over.
    apart: Arc<AtomicBool>,
}

impl Announcer {
    /// This process serves, and no other one does. A service that cannot tell so serves all the same, so a failure is
    /// only logged. Returns whether everybody knows.
    #[cfg_attr(not(feature = "systemd"), allow(unused_variables, reason = "a file has no room for it"))]
    pub(crate) fn serving(&self, generation: u64) -> bool {
        #[cfg(feature = "systemd")]
        manager::notify(&manager::serving(generation));
        let Some(path) = &self.pidfile else { return true };
        let written = write(path);
        if let Err(error) = &written {
            let (path, error) = (path.display(), crate::error::advised(error));
            tracing::error!(event = "pidfile_failed", %path, %error, "cannot write the pidfile; it will be tried again");
        }
        written.is_ok()
    }

    /// How far the initialisation is, which has so long from here on.
    #[cfg_attr(
        not(feature = "systemd"),
        allow(unused_variables, clippy::unused_self, reason = "there is no other manager")
    )]
    pub(crate) fn starting(&self, message: &str, limit: Duration) {
        #[cfg(feature = "systemd")]
        manager::notify(&manager::starting(message, limit));
    }

    /// How often the service manager wants a sign of life from whoever serves, if it does: twice in its interval.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        #[cfg(feature = "systemd")]
        return sd_notify::watchdog_enabled().map(|interval| interval / 2);
        #[cfg(not(feature = "systemd"))]
        None
    }

    /// Gives it one.
    pub(crate) fn alive(&self) {
        #[cfg(feature = "systemd")]
        manager::notify(&[manager::Word::Alive]);
    }

    /// What a handoff of this process's is at, for the service manager. A successor that reports has until `ready` from then
    /// on.
    #[cfg_attr(not(feature = "systemd"), allow(unused_variables, reason = "there is no other manager"))]
    pub(crate) fn tell(&self, event: &Event, ready: Duration) {
        #[cfg(feature = "systemd")]
        {
            let active = event.event == crate::core::wire::News::Active;
            let elsewhere = active && event.pid.is_some_and(manager::is_elsewhere);
            let mut words = manager::words(event, ready, elsewhere);
            if active {
                self.apart.store(elsewhere, Ordering::SeqCst);
                // The last one, until the next process is heard: no gap is longer than the interval between two.
                words.extend(self.watchdog().map(|_| manager::Word::Alive));
            }
            manager::notify(&words);
        }
    }

    /// Whether the manager minds this process on its own, and the one that serves now in another unit.
    pub(crate) fn is_minded_apart(&self) -> bool {
        self.apart.load(Ordering::SeqCst)
    }

    /// This process was told to stop, which may take so long.
    #[cfg_attr(not(feature = "systemd"), allow(unused_variables, reason = "there is no other manager"))]
    pub(crate) fn stopping(&self, limit: Duration) {
        #[cfg(feature = "systemd")]
        manager::notify(&manager::stopping(limit));
    }

    /// Nobody serves any more.
    pub(crate) fn stopped(&self) {
        if let Some(path) = self.pidfile.as_deref().filter(|path| names_us(path)) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Replaces it by `rename(2)`: whoever reads it finds one whole process id.
fn write(path: &Path) -> io::Result<()> {
    let pid = std::process::id();
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{pid}"));
    let temporary = Path::new(&temporary);
    let written = fs::write(temporary, format!("{pid}\n")).and_then(|()| fs::rename(temporary, path));
    written.inspect_err(|_| drop(fs::remove_file(temporary)))
}

fn names_us(path: &Path) -> bool {
    fs::read_to_string(path).is_ok_and(|pid| pid.trim() == std::process::id().to_string())
}

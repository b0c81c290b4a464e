//! Looks after the control path while the service is this process's: without it no successor finds the service, and a new
//! process starts beside it.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{LISTENER, PATH};
use crate::core::wire::News;
use crate::core::{PathStep, Reachability, Sight};
use crate::driver::generation::Generation;
use crate::driver::place::{self, Control, Place};
use crate::error::{Error, PathProblem};
use crate::sys::event::{Interest, Poller};
use crate::sys::watch::PathWatch;

/// How long after a look nothing that changes is a reason for the next: whoever makes changes in a loop keeps nobody busy.
const REST: Duration = Duration::from_millis(100);

/// Notices where the control path leads, and puts it back.
#[derive(Debug)]
pub(super) struct Lookout {
    generation: Arc<Generation>,
    poller: Arc<Poller>,
    /// Absent where the kernel has none to give: the path is then looked at when an upgrade is asked for.
    watch: Option<PathWatch>,
    reachability: Reachability,
    /// Whether the path is this process's to look after.
    watching: bool,
    /// Something has changed, and nobody has looked yet.
    stirred: bool,
    rests_until: Option<Instant>,
    /// Whether the poller listens for changes.
    listening: bool,
}

impl Lookout {
    /// What it needs is acquired here. It works without what there is none of.
    pub(super) fn new(generation: Arc<Generation>, poller: Arc<Poller>) -> Lookout {
        let path = generation.control().place.absolute().to_owned();
        let watch = PathWatch::new().and_then(|mut watch| {
            watch.renew(&path)?;
            poller.add(watch.as_fd(), PATH, Interest::HangUp)?;
            Ok(watch)
        });
        if let Err(error) = &watch {
            let path = path.display();
            tracing::warn!(event = "path_unwatched", %path, %error, "whether the control socket is removed is seen at the next upgrade");
        }
        Lookout {
            generation,
            poller,
            watch: watch.ok(),
            reachability: Reachability::default(),
            watching: false,
            stirred: false,
            rests_until: None,
            listening: false,
        }
    }

    /// Something has changed on the way to the path.
    pub(super) fn stir(&mut self) {
        self.stirred = true;
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let rest = self.rests_until.filter(|_| self.stirred && self.reachability.heeds_changes());
        let again = if self.watching { self.reachability.deadline() } else { None };
        rest.into_iter().chain(again).min()
    }

    /// Looks, where there is a reason to. Returns the control socket that another one has taken the place of.
    pub(super) fn step(&mut self, now: Instant) -> Option<Arc<Control>> {
        let (keeps, asked) = self.generation.path_to_keep();
        let begins = keeps && !self.watching;
        self.watching = keeps;
        self.rests_until = self.rests_until.filter(|until| *until > now);
        let stirred = self.stirred && self.rests_until.is_none() && self.reachability.heeds_changes();
        let due = self.reachability.deadline().is_some_and(|at| at <= now);
        let mut replaced = None;
        let looks = keeps && (begins || asked || stirred || due);
        if looks {
            replaced = self.look(now, asked);
        }
        if looks || asked {
            self.generation.path_seen(self.reachability.lost());
        }
        self.listen();
        replaced
    }

    fn look(&mut self, now: Instant, asked: bool) -> Option<Arc<Control>> {
        self.stirred = false;
        self.rests_until = Some(now + REST);
        self.renew_watch();
        let control = self.generation.control();
        let (place, sight) = self.see(&control, now, asked)?;
        match self.reachability.saw(now, sight) {
            PathStep::Nothing => None,
            PathStep::Lost => {
                self.tell_lost();
                None
            }
            PathStep::Found => {
                self.tell_restored();
                None
            }
            PathStep::PutBack => self.put_back(now, place?),
        }
    }

    /// Where the path leads. `None`: to what is known, and is left in peace.
    fn see(&self, control: &Control, now: Instant, asked: bool) -> Option<(Option<Place>, Sight)> {
        let place = match control.place.again() {
            Ok(Some(place)) => place,
            Ok(None) => return Some((None, see_from_afar(control))),
            Err(error) => return Some((None, Sight::Barred(reason(error)))),
        };
        let sight = match place.look() {
            Ok(None) => Sight::Nothing,
            Ok(found) if found == control.path => Sight::Ours,
            Ok(Some(found)) if !asked && !self.reachability.may_probe(now, found) => return None,
            Ok(Some(found)) => match place.is_served() {
                Ok(true) => Sight::Taken(found),
                Ok(false) => Sight::Stale(found),
                Err(error) => Sight::Barred(reason(error)),
            },
            Err(Error::Path { problem: PathProblem::Permission, .. }) => see_from_afar(control),
            Err(error) => Sight::Barred(reason(error)),
        };
        Some((Some(place), sight))
    }

    fn put_back(&mut self, now: Instant, place: Place) -> Option<Arc<Control>> {
        match self.bind_anew(place) {
            // The service is let go at this moment.
            Ok(None) => None,
            Ok(replaced) => {
                self.reachability.restored();
                self.tell_restored();
                self.renew_watch();
                replaced
            }
            Err(error) => {
                if self.reachability.failed(now, &format!("it cannot be put back: {error}")) == PathStep::Lost {
                    self.tell_lost();
                }
                None
            }
        }
    }

    /// As a first generation does, and under the same lock.
    // M1, M3, M4, M132
    fn bind_anew(&self, place: Place) -> Result<Option<Arc<Control>>, String> {
        let _lock = place.try_lock().map_err(reason)?.ok_or("another process is starting there")?;
        if place.is_served().map_err(reason)? {
            return Err("another process listens there".to_owned());
        }
        let listener = place.bind(self.generation.config.mode).map_err(reason)?;
        let path = place.look().map_err(reason)?;
        let control = Control { place, listener, path };
        let set_up = place::listen(control.listener.as_fd())
            .and_then(|()| self.poller.add(control.listener.as_fd(), LISTENER, Interest::HangUp));
        if let Err(error) = set_up {
            path.iter().for_each(|path| control.place.remove(*path));
            return Err(Error::io("set up the control socket")(error).to_string());
        }
        let (unused, replaces) = match self.generation.replace_control(Arc::new(control)) {
            Ok(replaced) => (replaced, true),
            Err(control) => (control, false),
        };
        self.poller.remove(unused.listener.as_fd());
        // It may be there still, in a directory that was renamed, and nobody accepts there any more.
        unused.path.iter().for_each(|path| unused.place.remove(*path));
        Ok(replaces.then_some(unused))
    }

    fn renew_watch(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        watch.lower();
        if let Err(error) = watch.renew(self.generation.control().place.absolute()) {
            let path = self.generation.config.path.display();
            tracing::warn!(event = "path_unwatched", %path, %error, "whether the control socket is removed is seen at the next upgrade");
        }
    }

    /// Listens for changes while there is nothing to look at already.
    fn listen(&mut self) {
        let wanted = self.watching && !self.stirred;
        let Some(watch) = self.watch.as_ref().filter(|_| wanted != self.listening) else { return };
        let interest = if wanted { Interest::Read } else { Interest::HangUp };
        // It is in the set, so this does not fail.
        let _ = self.poller.change(watch.as_fd(), PATH, interest);
        self.listening = wanted;
    }

    // M133
    fn tell_lost(&self) {
        let (path, reason) = (self.generation.config.path.display(), self.reachability.lost().unwrap_or_default());
        let message = format!("the control path does not lead to this process any more: {reason}");
        tracing::error!(event = "path_lost", %path, reason, "no new process finds this one, and none is started: make room at the path");
        self.generation.tell(News::PathLost, None, None, message);
    }

    fn tell_restored(&self) {
        let path = self.generation.config.path.display();
        tracing::warn!(event = "path_restored", %path, "the control path had led elsewhere, and leads to this process again");
        self.generation.tell(News::PathRestored, None, None, "the control path leads to this process again".to_owned());
    }
}

/// What is left to see is the directory that this process had open before. Where it may not look there either, it does not
/// know that anything is wrong: whoever starts the next process may be another user.
fn see_from_afar(control: &Control) -> Sight {
    match control.place.look() {
        Ok(found) if found != control.path => {
            Sight::Barred("it cannot be reached from this process any more".to_owned())
        }
        _ => Sight::Ours,
    }
}

/// What is wrong, without the path, which stands beside it.
fn reason(error: Error) -> String {
    match error {
        Error::Path { problem, .. } => problem.to_string(),
        other => other.to_string(),
    }
}

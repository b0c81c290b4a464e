//! The keeper, seen from the service: it gets everything when it comes, what changes, and the service itself at a stop.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use super::handover::{Handover, Sealed};
use super::{KEEPER, Steward};
use crate::core::Packet;
use crate::driver::generation::Arrival;
use crate::driver::giving::Giving;
use crate::driver::keeping::Keeping;
use crate::driver::worker::{Pending, Worker};
use crate::error::{Error, Result};
use crate::sys::event::Interest;

/// What there is of a keeper.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    keeping: Option<Keeping>,
    /// The snapshot that the application was asked for, and the thread that it is asked on.
    asked: Option<(Worker, Pending<Sealed>)>,
    /// The application's own last snapshot: a keeper that comes later has it as well.
    checkpoint: Option<Packet<Arc<OwnedFd>>>,
}

impl Keeper {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.keeping.as_ref().and_then(Keeping::deadline)
    }

    fn checkpoint(&self) -> Option<Packet<OwnedFd>> {
        let Packet { info, memfd } = self.checkpoint.as_ref()?;
        Some(Packet { info: info.clone(), memfd: memfd.try_clone().ok()? })
    }
}

impl Steward {
    /// Does all that is to be done for a keeper now.
    pub(super) fn keep(&mut self) {
        let mail = self.generation.take_keeper_mail();
        if let Some(checkpoint) = mail.checkpoint {
            self.take_checkpoint(checkpoint);
        }
        if mail.stale {
            self.renew_keeper();
        }
        if let Some(arrival) = mail.arrival {
            self.welcome_keeper(arrival);
        }
        self.give_to_keeper();
        let over = self.keeper.keeping.as_mut().and_then(Keeping::poll);
        if let Some(cause) = over {
            let generation = self.generation.number;
            tracing::warn!(event = "keeper_lost", generation, reason = %cause, "nobody keeps the service");
            self.no_keeper();
        }
    }

    /// A state that was sealed, for whoever keeps the service now or later.
    fn take_checkpoint(&mut self, checkpoint: Packet<OwnedFd>) {
        let Packet { info, memfd } = checkpoint;
        tracing::debug!(event = "checkpoint", state_bytes = info.length, "a newer snapshot");
        self.keeper.checkpoint = Some(Packet { info, memfd: Arc::new(memfd) });
        let newest = self.keeper.checkpoint();
        if let Some((keeping, newest)) = self.keeper.keeping.as_mut().filter(|keeping| keeping.holds()).zip(newest) {
            keeping.checkpoint(newest);
        }
    }

    fn welcome_keeper(&mut self, arrival: Arrival) {
        self.no_keeper();
        let pid = arrival.receive.pid;
        if let Err(error) = self.begin_to_keep(arrival) {
            tracing::error!(event = "keeper_refused", keeper = pid, %error, "cannot give anything to a keeper");
            self.no_keeper();
        } else {
            self.generation.keeper_receives(pid);
        }
    }

    fn begin_to_keep(&mut self, arrival: Arrival) -> Result<()> {
        let keeping = Keeping::new(Arc::clone(&self.generation), arrival)?;
        self.poller.add(keeping.poller().as_fd(), KEEPER, Interest::Read).map_err(Error::io("watch a keeper"))?;
        self.keeper.keeping = Some(keeping);
        let hook = self.application.hooks.snapshot.clone();
        if hook.is_none() {
            return Ok(());
        }
        let worker = Worker::start(&self.jobs, self.application.surround.clone());
        let worker = worker.map_err(Error::io("start a thread for the application's state"))?;
        let asked = worker.run(move || hook.call()?.map(crate::state::State::seal).transpose());
        self.keeper.asked = Some((worker, asked));
        Ok(())
    }

    /// Everything, once the application has given its snapshot.
    fn give_to_keeper(&mut self) {
        if !self.keeper.keeping.as_ref().is_some_and(Keeping::awaits_offer) {
            return;
        }
        let snapshot = match &self.keeper.asked {
            None => self.keeper.checkpoint(),
            Some((_, asked)) => match asked.take() {
                None => return,
                Some(Ok(snapshot)) => snapshot,
                Some(Err(error)) => {
                    tracing::error!(event = "state_lost", %error, "the keeper has no state of the application's");
                    self.keeper.checkpoint()
                }
            },
        };
        self.keeper.asked = None;
        let descriptors = (self.application.offer)().into_descriptors();
        let Some(keeping) = &mut self.keeper.keeping else { return };
        if let Err(error) = descriptors.and_then(|descriptors| keeping.offer(descriptors, snapshot)) {
            tracing::error!(event = "keeper_refused", keeper = keeping.pid(), %error, "cannot give anything to a keeper");
            self.drop_keeper(|keeping| keeping.give_up(&error.to_string()));
        }
    }

    /// What the keeper has is not what is served any more: it asks again, here or where the service is then.
    // M172
    pub(super) fn renew_keeper(&mut self) {
        self.drop_keeper(Keeping::renew);
    }

    fn no_keeper(&mut self) {
        self.drop_keeper(drop);
    }

    fn drop_keeper(&mut self, how: impl FnOnce(Keeping)) {
        self.keeper.asked = None;
        self.generation.no_keeper();
        if let Some(keeping) = self.keeper.keeping.take() {
            self.poller.remove(keeping.poller().as_fd());
            how(keeping);
        }
    }

    /// The service stops: whoever keeps it gets it, if somebody does and has everything.
    // M174
    pub(super) fn give_up_to_keeper(&mut self) -> Option<Handover> {
        let keeping = self.keeper.keeping.take_if(|keeping| keeping.holds())?;
        self.poller.remove(keeping.poller().as_fd());
        self.generation.no_keeper();
        let mut giving = Giving::of_keeper(keeping);
        if let Err(error) = self.prepare_for(&giving) {
            giving.give_up(error);
            return None;
        }
        (self.application.stopping)(self.waits.of_a_stop());
        Some(Handover::to(giving, self.waits, None))
    }
}

//! What the kernel says of a process, see `proc_pid_status(5)`.

use crate::run::Outcome;

/// In KiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    /// All that it had resident at any time, at the most.
    pub(crate) peak: u64,
    /// Its own: its heap, its stacks.
    pub(crate) anon: u64,
    /// Of files, as its program is one.
    pub(crate) file: u64,
    /// Shared with other processes, as a memfd that it has mapped.
    pub(crate) shared: u64,
}

impl Memory {
    pub(crate) fn of(pid: u32) -> Outcome<Memory> {
        let status = read(&format!("/proc/{pid}/status"))?;
        let field = |name| field(&status, name);
        Ok(Memory {
            resident: field("VmRSS")?,
            peak: field("VmHWM")?,
            anon: field("RssAnon")?,
            file: field("RssFile")?,
            shared: field("RssShmem")?,
        })
    }

    /// What of the peak cannot have been shared: it finds a copy that is gone again by now.
    pub(crate) fn peak_of_its_own(&self) -> u64 {
        self.anon.max(self.peak.saturating_sub(self.file + self.shared))
    }
}

/// One of its threads.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Thread {
    pub(crate) id: u32,
    pub(crate) name: String,
    /// How often it has left a processor, of its own will or not. Whoever sleeps has to wake up for one more.
    pub(crate) switches: u64,
}

/// All of a process, by their ids.
pub(crate) fn threads(pid: u32) -> Outcome<Vec<Thread>> {
    let tasks = format!("/proc/{pid}/task");
    let entries = std::fs::read_dir(&tasks).map_err(|error| format!("{tasks}: {error}"))?;
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    // One that has ended meanwhile is none.
    let mut threads: Vec<Thread> = ids.filter_map(|id| thread(&tasks, id).ok()).collect();
    threads.sort_by_key(|thread| thread.id);
    Ok(threads)
}

fn thread(tasks: &str, id: u32) -> Outcome<Thread> {
    let name = read(&format!("{tasks}/{id}/comm"))?.trim_end().to_owned();
    let status = read(&format!("{tasks}/{id}/status"))?;
    let switches = field(&status, "voluntary_ctxt_switches")? + field(&status, "nonvoluntary_ctxt_switches")?;
    Ok(Thread { id, name, switches })
}

fn read(path: &str) -> Outcome<String> {
    std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}

/// The number after `NAME:`.
fn field(status: &str, name: &str) -> Outcome<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| format!("no {name} in the status"))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let status = "VmHWMark:\t 1 kB\nVmHWM:\t    1234 kB\nThreads:\t3\n";
        assert_eq!(field(status, "VmHWM"), Ok(1_234));
        assert_eq!(field(status, "Threads"), Ok(3));
        assert!(field(status, "VmRSS").is_err());
    }

    #[test]
    fn a_thread_that_sleeps_and_wakes_is_counted() {
        let (wake, sleeps) = channel();
        let (tell, woken) = channel();
        let loops = move || sleeps.iter().for_each(|()| tell.send(()).unwrap());
        let sleeper = std::thread::Builder::new().name("sleeper".to_owned()).spawn(loops).unwrap();
        let switches = || {
            let threads = threads(std::process::id()).unwrap();
            threads.into_iter().find(|thread| thread.name == "sleeper").map(|thread| thread.switches)
        };
        let ask = || {
            wake.send(()).unwrap();
            woken.recv().unwrap();
        };
        ask();
        let before = switches();
        (0..1_000).for_each(|_| ask());
        assert!(switches() > before);
        drop(wake);
        sleeper.join().unwrap();
    }

    #[test]
    fn a_copy_that_is_gone_is_found() {
        let memory = Memory { resident: 100, peak: 1_100, anon: 50, file: 40, shared: 10 };
        assert_eq!(memory.peak_of_its_own(), 1_050);
    }
}

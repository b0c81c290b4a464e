//! A service that says what a script has it say, over a control socket of its own.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;

use crate::example::place;

/// The process id that it claims to have.
pub(crate) const PID: u32 = 4121;

/// What it says first.
pub(crate) const HELLO: &str = r#"{"type":"hello","protocol":{"min":1,"max":1},"name":"fake","version":"1.2.3","pid":4121,"generation":3,"phase":"serving"}"#;

/// The same service one generation later.
pub(crate) const NEXT: &str = r#"{"type":"hello","protocol":{"min":1,"max":1},"name":"fake","version":"1.2.4","pid":4177,"generation":4,"phase":"serving"}"#;

/// What it says to `watch`.
pub(crate) const STATUS: &str = r#"{"type":"status","name":"fake","version":"1.2.3","pid":4121,"generation":3,"phase":"serving","uptime_ms":61000,"fds":[],"fd_count":0,"history":[],"successor":null,"predecessor":null}"#;

/// The service: a thread.
pub(crate) struct Fake {
    pub(crate) path: String,
    _directory: tempfile::TempDir,
    thread: Option<JoinHandle<()>>,
}

/// The service's end of the control socket. Dropped, it leaves the socket behind, as a crash does.
pub(crate) struct Script {
    listener: UnixListener,
    path: String,
}

/// One connection.
pub(crate) struct Conversation(BufReader<UnixStream>);

impl Fake {
    pub(crate) fn new(script: impl FnOnce(Script) + Send + 'static) -> Fake {
        let (directory, path) = place();
        let listener = UnixListener::bind(&path).unwrap();
        let own = Script::new(listener, path.clone());
        Fake { path, _directory: directory, thread: Some(std::thread::spawn(move || script(own))) }
    }

    /// Returns once the script is over, and fails where it did.
    pub(crate) fn ends(mut self) {
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Script {
    pub(crate) fn new(listener: UnixListener, path: String) -> Script {
        Script { listener, path }
    }

    /// The next connection, greeted.
    pub(crate) fn accept(&self) -> Conversation {
        self.accept_as(HELLO)
    }

    pub(crate) fn accept_as(&self, hello: &str) -> Conversation {
        let mut conversation = Conversation(BufReader::new(self.listener.accept().unwrap().0));
        conversation.say(hello);
        conversation
    }

    /// Ends as a service that stops in good order does.
    pub(crate) fn stop(self) {
        std::fs::remove_file(self.path).unwrap();
    }
}

impl Conversation {
    pub(crate) fn say(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// The next line that the client says.
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub(crate) fn event(&mut self, event: &str, message: &str) {
        let line = serde_json::json!({"type": "event", "event": event, "generation": 3, "message": message});
        self.say(&line.to_string());
    }

    /// Says nothing more, and returns when the client has gone.
    pub(crate) fn wait_for_the_end(mut self) {
        while !self.hear().is_empty() {}
    }
}

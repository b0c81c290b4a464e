//! The command `handoff` as people and scripts use it: against the example service, and against one that follows a
//! script.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "common/example.rs"]
mod example;
#[path = "common/fake.rs"]
mod fake;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use example::{Process, place};
use fake::{Conversation, Fake, HELLO, NEXT, PID, STATUS};
use serde_json::{Value, json};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_handoff"));
    command.args(args).env("TZ", "UTC").stdin(Stdio::null());
    for variable in ["HANDOFF_SOCKET", "SERVICE_RESULT", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(variable);
    }
    // Where these tests run in a container, it is that of all of them.
    command.env("HANDOFF_INSTANCE", "");
    command
}

/// Runs it to its end.
fn run(args: &[&str]) -> Ended {
    Ended(command(args).output().unwrap())
}

struct Ended(Output);

impl Ended {
    fn out(&self) -> &str {
        std::str::from_utf8(&self.0.stdout).unwrap()
    }

    fn err(&self) -> &str {
        std::str::from_utf8(&self.0.stderr).unwrap()
    }

    #[track_caller]
    fn succeeds(&self) -> &str {
        assert!(self.0.status.success() && self.err().is_empty(), "{:?}", self.0);
        self.out()
    }

    /// It failed with this exit code and one line on stderr with all of this in it.
    #[track_caller]
    fn fails(&self, code: i32, wanted: &[&str]) {
        assert_eq!(self.0.status.code(), Some(code), "{:?}", self.0);
        assert_eq!(self.err().lines().count(), 1, "{}", self.err());
        assert!(self.err().starts_with("error: "), "{}", self.err());
        for words in wanted {
            assert!(self.err().contains(words), "{words:?} is not in: {}", self.err());
        }
    }

    /// What it said on stdout as one line: tables break theirs to fit a terminal.
    fn unbroken(&self) -> String {
        self.out().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// No line is longer than a terminal is wide.
    #[track_caller]
    fn fits(&self) {
        for line in self.out().lines() {
            assert!(line.chars().count() <= 80, "{} characters: {line}", line.chars().count());
        }
    }

    fn lines(&self) -> Vec<Value> {
        self.out().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// One that runs, and is killed if a test fails before it has ended.
struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    fn start(args: &[&str]) -> Running {
        let mut child = command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Running { child, stdout }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.stdout.read_line(&mut line).unwrap(), 0, "it says nothing more");
        line.trim_end().to_owned()
    }

    /// Its lines up to the first one with `words` in it.
    fn lines_until(&mut self, words: &str) -> Vec<String> {
        let mut lines = vec![self.line()];
        while !lines.last().unwrap().contains(words) {
            lines.push(self.line());
        }
        lines
    }

    /// The exit code, and what it said on stderr.
    fn ends(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process that replaced the one that a test started is no child of the test.
struct StopAtTheEnd<'a>(&'a str);

impl Drop for StopAtTheEnd<'_> {
    fn drop(&mut self) {
        let _ = command(&["stop", self.0, "--timeout", "10s"]).output();
    }
}

/// What a service says to a request that it does not take.
const UNSUPPORTED: &str = r#"{"type":"error","code":"unsupported","message":"this is not offered by this service"}"#;

fn http(listen: &str, control: &str) -> Process {
    Process::start("http", &["--listen", listen, "--control", control, "--drain", "100"])
}

/// The example service, started by this command. It is killed at the test's end.
fn serving(command: &mut Command) -> Running {
    let mut child = command.env("HANDOFF_INSTANCE", "").stdout(Stdio::piped()).spawn().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let mut service = Running { child, stdout };
    service.lines_until("ready generation=");
    service
}

fn terminate(process: &mut Process) {
    let pid = nix::unistd::Pid::from_raw(process.child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    process.ends_well();
}

/// What follows the time in a line.
fn after_time(line: &str) -> &str {
    line.split_once("  ").unwrap().1.trim_start()
}

mod usage {
    use super::*;

    #[test]
    fn help_says_what_it_is_how_to_use_it_and_how_it_ends() {
        let help = run(&["--help"]);
        for words in ["control socket", "Examples:", "HANDOFF_SOCKET", "NO_COLOR", "Exit codes:", "handoff upgrade"] {
            assert!(help.succeeds().contains(words), "{words}");
        }
        for name in ["status", "watch", "upgrade", "stop", "check"] {
            assert!(run(&[name, "--help"]).succeeds().contains("HANDOFF_SOCKET"), "{name}");
        }
    }

    #[test]
    fn without_a_socket_it_says_where_to_name_one() {
        for name in ["status", "watch", "upgrade", "stop", "check"] {
            let set_to_nothing = Ended(command(&[name]).env("HANDOFF_SOCKET", "").output().unwrap());
            for ended in [run(&[name]), set_to_nothing] {
                assert_eq!(ended.0.status.code(), Some(2));
                for words in ["set HANDOFF_SOCKET", "handoff status /run/app/handoff.sock", "ss -xlp"] {
                    assert!(ended.err().contains(words), "{}", ended.err());
                }
            }
        }
    }

    #[test]
    fn a_duration_that_is_none_is_wrong_usage() {
        for command in ["upgrade", "stop"] {
            let ended = run(&[command, "/nowhere", "--timeout", "soon"]);
            assert_eq!(ended.0.status.code(), Some(2));
            assert!(ended.err().contains("30, 500ms, 2m, 1h"), "{}", ended.err());
        }
        let ended = run(&["stop", "/nowhere", "--timeout", "30", "--no-wait"]);
        assert_eq!(ended.0.status.code(), Some(2));
    }

    #[test]
    fn completions_know_the_subcommands() {
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let script = run(&["completions", shell]);
            assert!(script.succeeds().contains("upgrade") && !script.out().contains("successor"), "{shell}");
        }
    }

    #[test]
    fn completions_show_what_help_shows_and_nothing_that_it_hides() {
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let script = run(&["completions", shell]);
            assert!(script.succeeds().contains("no-wait") && !script.out().contains("grace"), "{shell}");
        }
    }

    #[test]
    fn one_who_stops_reading_sees_no_panic() {
        for args in [&["completions", "bash"][..], &["--help"]] {
            let (reader, writer) = nix::unistd::pipe().unwrap();
            drop(reader);
            let ended = Ended(command(args).stdout(writer).output().unwrap());
            ended.succeeds();
        }
    }
}

mod unreachable {
    use super::*;

    #[test]
    fn nobody_was_ever_there() {
        let (_directory, path) = place();
        for name in ["status", "watch", "upgrade", "stop"] {
            run(&[name, &path]).fails(3, &[&path, "nobody listens", "start the service"]);
        }
    }

    #[test]
    fn the_service_died() {
        let (_directory, path) = place();
        drop(UnixListener::bind(&path).unwrap());
        run(&["status", &path]).fails(3, &["nobody listens", "left over"]);
    }

    #[test]
    fn the_path_is_wrong() {
        let (directory, path) = place();
        let inside = directory.path().join("nowhere/control.sock");
        run(&["status", inside.to_str().unwrap()]).fails(3, &["no such directory"]);
        std::fs::write(&path, "").unwrap();
        run(&["status", &path]).fails(3, &["not a socket"]);
    }

    #[test]
    fn this_user_is_not_admitted() {
        let fake = Fake::new(|script| {
            script.accept_as(r#"{"type":"error","code":"denied","message":"uid 1000 is not allowed"}"#);
        });
        run(&["status", &fake.path]).fails(3, &["does not admit this user", "uid 1000", "as root"]);
        fake.ends();
    }

    #[test]
    fn nobody_answers() {
        let (_directory, path) = place();
        let _silent = UnixListener::bind(&path).unwrap();
        run(&["status", &path]).fails(3, &["no answer within 5s"]);
    }

    #[test]
    fn something_else_listens() {
        let fake = Fake::new(|script| {
            script.accept_as("220 mail.example.org ESMTP").wait_for_the_end();
        });
        run(&["status", &fake.path]).fails(3, &["no fd-handoff service"]);
        fake.ends();
    }

    #[test]
    fn the_connection_is_closed_before_the_answer() {
        let fake = Fake::new(|script| {
            script.accept().hear();
        });
        run(&["status", &fake.path]).fails(3, &["closed before an answer"]);
        fake.ends();
    }
}

mod status {
    use super::*;

    #[test]
    fn a_page_about_a_running_service() {
        let (_directory, path) = place();
        let service = http("127.0.0.1:0", &path);
        let mut status = command(&["status"]);
        let shown = Ended(status.env("HANDOFF_SOCKET", &path).output().unwrap());
        let listener = format!("http  TCP listener  {}", service.word("listen="));
        let pid = format!("process     {}", service.word("pid="));
        for words in ["http ", "generation  1", &pid, "it serves", &listener, "No handoff has been tried yet."] {
            assert!(shown.succeeds().contains(words), "{words:?} is not in:\n{}", shown.out());
        }
    }

    #[test]
    fn json_has_the_fields_of_the_protocol() {
        let (_directory, path) = place();
        let mut first = http("127.0.0.1:0", &path);
        let second = http(first.word("listen="), &path);
        first.ends_well();
        let shown = run(&["status", &path, "--json"]);
        shown.succeeds();
        let [status] = &shown.lines()[..] else { panic!("{}", shown.out()) };
        assert_eq!((&status["generation"], &status["phase"]), (&json!(2), &json!("serving")));
        assert_eq!(status["pid"].to_string(), second.word("pid="));
        assert_eq!(status["history"][0]["outcome"], "completed");
        assert_eq!(status["fds"][0]["kind"], "tcp_listener");
    }

    #[test]
    fn a_successor_that_never_started_is_no_process_0() {
        let (directory, path) = place();
        // Its own name, which goes: there is nothing to start then.
        let program = directory.path().join("http");
        std::os::unix::fs::symlink(example::program("http"), &program).unwrap();
        let _service = serving(Command::new(&program).args(["--listen", "127.0.0.1:0", "--control", &path]));
        std::fs::remove_file(&program).unwrap();

        let mut watch = Running::start(&["watch", &path]);
        watch.line();
        let upgrade = run(&["upgrade", &path, "--json"]);
        upgrade.fails(1, &["was not replaced: cannot start"]);
        let lines = upgrade.lines();
        let failed = lines.iter().find(|line| line["event"] == "failed").unwrap();
        assert!(failed.get("pid").is_none(), "{failed}");
        let watched = watch.lines_until("failed").join("\n");

        let status = run(&["status", &path]);
        assert!(status.succeeds().contains("  no process  failed "), "{}", status.out());
        status.fits();
        for text in [status.out(), upgrade.err(), &watched] {
            assert!(!text.contains("process 0"), "{text}");
        }
    }

    #[test]
    fn a_page_fits_a_terminal() {
        let fake = Fake::new(|script| {
            let mut client = script.accept();
            client.hear();
            let mut status: Value = serde_json::from_str(STATUS).unwrap();
            let mut failed = attempt("failed", 12, Some(&"the successor said a lot about why it could not ".repeat(5)));
            let mut slow = attempt("taken_back", 12, Some("it died"));
            for lap in ["total_us", "transfer_us", "initialise_us", "release_us", "pause_us", "drain_us"] {
                slow[lap] = json!(75_000_000);
            }
            failed["successor_pid"] = json!(4_194_304);
            status["phase"] = json!("stranded");
            status["history"] = json!([attempt("completed", 11, None), failed, slow]);
            status["successor"] =
                json!({"pid": 4_194_304, "version": "1.2.4", "progress": "reading this and that ".repeat(9)});
            status["fds"] = json!([{"name": "http", "kind": "unix_seqpacket_listener", "addr": "[2001:db8::1]:8080"}]);
            status["fd_count"] = json!(1);
            client.say(&status.to_string());
        });
        let shown = run(&["status", &fake.path]);
        shown.succeeds();
        shown.fits();
        assert!(shown.unbroken().contains("be ended from here; end it by hand"), "{}", shown.out());
        fake.ends();
    }

    #[test]
    fn colours_are_for_terminals_and_for_those_who_insist() {
        let (_directory, path) = place();
        let _service = http("127.0.0.1:0", &path);
        let with = |variable: &str| {
            let mut status = command(&["status", &path]);
            Ended(status.env(variable, "1").output().unwrap()).succeeds().contains('\x1b')
        };
        assert!(!run(&["status", &path]).succeeds().contains('\x1b'));
        assert!(with("CLICOLOR_FORCE") && !with("NO_COLOR"));
    }
}

mod watch {
    use super::*;

    #[test]
    fn a_handoff_and_a_stop_are_followed_from_one_generation_to_the_next() {
        let (_directory, path) = place();
        let mut first = http("127.0.0.1:0", &path);
        let mut watch = Running::start(&["watch", &path]);
        let headline = watch.line();
        assert!(headline.contains(&format!("generation 1, process {}, up ", first.word("pid="))), "{headline}");

        let mut second = http(first.word("listen="), &path);
        first.ends_well();
        let lines = watch.lines_until("was replaced");
        for event in ["receive", "transferred", "ready", "release", "active", "farewell"] {
            assert!(lines.iter().any(|line| line.contains(&format!("  {event} "))), "{event} is not in {lines:#?}");
        }
        let next = format!("generation 2, process {}", second.word("pid="));
        assert!(lines.last().unwrap().contains(&next), "{lines:#?}");

        terminate(&mut second);
        let last = watch.lines_until("has stopped").pop().unwrap();
        assert_eq!(after_time(&last), "the service has stopped, and nobody listens any more");
        assert_eq!(watch.ends(), (Some(0), String::new()));
    }

    #[test]
    fn json_is_a_status_for_each_generation_and_its_events() {
        let (_directory, path) = place();
        let mut first = http("127.0.0.1:0", &path);
        let mut watch = Running::start(&["watch", &path, "--json"]);
        let status: Value = serde_json::from_str(&watch.line()).unwrap();
        assert_eq!((&status["type"], &status["generation"]), (&json!("status"), &json!(1)));

        let mut second = http(first.word("listen="), &path);
        first.ends_well();
        let lines = watch.lines_until(r#""type":"status""#);
        let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&lines[0]["type"], &lines[0]["event"]), (&json!("event"), &json!("receive")));
        assert_eq!(lines.last().unwrap()["generation"], 2);
        terminate(&mut second);
        assert_eq!(watch.ends(), (Some(0), String::new()));
    }

    #[test]
    fn a_service_that_dies_is_a_failure() {
        let (_directory, path) = place();
        let mut service = http("127.0.0.1:0", &path);
        let mut watch = Running::start(&["watch", &path]);
        watch.line();
        service.child.kill().unwrap();
        let (code, said) = watch.ends();
        assert_eq!(code, Some(1));
        assert!(said.contains("it crashed or was killed"), "{said}");
    }

    #[test]
    fn handoffs_that_nobody_saw_are_told_of() {
        let fake = Fake::new(|script| {
            let mut first = script.accept();
            first.hear();
            first.say(STATUS);
            drop(first);
            let mut third = script.accept_as(NEXT);
            third.hear();
            let seen = attempt("completed", 3, None);
            let missed = attempt("completed", 4, None);
            let mut status: Value = serde_json::from_str(STATUS).unwrap();
            status["generation"] = json!(5);
            status["history"] = json!([seen, missed]);
            third.say(&status.to_string());
            script.stop();
        });
        let watched = run(&["watch", &fake.path]);
        let lines: Vec<&str> = watched.succeeds().lines().map(after_time).collect();
        assert!(lines[0].starts_with("fake 1.2.3, generation 3, process 4121, up 1 min 1 s: it serves"), "{lines:#?}");
        assert_eq!(lines[1], "meanwhile, handoff 4 → 5 completed: generation 5, process 4177, serves after 153 ms");
        assert!(lines[2].starts_with("the service was replaced: fake 1.2.3, generation 5"), "{lines:#?}");
        assert_eq!(lines.len(), 4);
        fake.ends();
    }

    #[test]
    fn it_ends_when_nobody_reads_any_more_though_nothing_happens() {
        let (_directory, path) = place();
        let _service = http("127.0.0.1:0", &path);
        let mut watch = command(&["watch", &path]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(watch.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Ended(watch.wait_with_output().unwrap()).succeeds();
    }

    #[test]
    fn it_ends_when_nobody_reads_any_more() {
        let fake = Fake::new(|script| {
            let mut watcher = script.accept();
            watcher.hear();
            watcher.say(STATUS);
            // The first line is read, and the second finds nobody: so does whatever follows.
            for _ in 0..1_000 {
                watcher.event("progress", "warming up");
            }
            watcher.wait_for_the_end();
        });
        let mut watch = command(&["watch", &fake.path]);
        let mut child = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ended = Ended(child.wait_with_output().unwrap());
        ended.succeeds();
    }
}

/// An attempt as the wire has it.
fn attempt(outcome: &str, from: u64, reason: Option<&str>) -> Value {
    let mut attempt = json!({
        "from": from, "successor_pid": 4177, "outcome": outcome, "began_unix_ms": 0, "total_us": 153_000,
    });
    if let Some(reason) = reason {
        attempt["reason"] = json!(reason);
    }
    attempt
}

fn outcome(outcome: &str, reason: Option<&str>) -> String {
    let mut line = attempt(outcome, 3, reason);
    line["type"] = json!("outcome");
    line.to_string()
}

mod upgrade {
    use super::*;

    /// A service that hears one request, and goes on as the script says.
    fn asked(script: impl FnOnce(&mut Conversation) + Send + 'static) -> Fake {
        Fake::new(|service| {
            let mut client = service.accept();
            assert_eq!(client.hear(), r#"{"type":"upgrade"}"#);
            script(&mut client);
        })
    }

    fn begun(script: impl FnOnce(&mut Conversation) + Send + 'static) -> Fake {
        asked(|client| {
            client.event("upgrade", "a new process is to take over");
            script(client);
        })
    }

    fn upgrade(fake: Fake) -> Ended {
        let ended = run(&["upgrade", &fake.path]);
        fake.ends();
        ended
    }

    #[test]
    fn each_step_is_a_line_and_success_is_success() {
        let fake = begun(|client| {
            client.event("spawned", "process 4177 was started");
            client.event("progress", "warming up");
            client.event("active", "the successor serves");
            client.say(&outcome("completed", None));
        });
        let ended = upgrade(fake);
        let steps: Vec<&str> = ended.succeeds().lines().map(|line| after_time(line.trim_start())).collect();
        let wanted = [
            "upgrade      a new process is to take over",
            "spawned      process 4177 was started",
            "progress     warming up",
            "active       the successor serves",
            "completed    generation 4, process 4177, serves after 153 ms",
        ];
        assert_eq!(steps, wanted);
    }

    #[test]
    fn json_is_the_events_and_the_outcome() {
        let fake = begun(|client| client.say(&outcome("completed", None)));
        let ended = run(&["upgrade", &fake.path, "--json"]);
        ended.succeeds();
        let types: Vec<Value> = ended.lines().iter().map(|line| line["type"].clone()).collect();
        assert_eq!(types, ["event", "outcome"]);
        assert_eq!(ended.lines()[1]["successor_pid"], 4177);
        fake.ends();
    }

    #[test]
    fn every_other_outcome_is_a_failure_with_its_reason() {
        for (word, said) in [
            ("failed", "generation 3 was not replaced: it was late"),
            ("taken_back", "generation 3 had to take the service back: it was late"),
            ("orphaned", "took over from a process that had died: it was late"),
            ("made_up_later", "does not know: it was late"),
        ] {
            let fake = begun(move |client| client.say(&outcome(word, Some("it was\nlate"))));
            upgrade(fake).fails(1, &["the upgrade failed", said]);
        }
    }

    #[test]
    fn a_service_that_is_busy_says_with_what() {
        let fake = asked(|client| {
            client.say(r#"{"type":"error","code":"busy","message":"a handoff to process 9 is under way"}"#);
        });
        upgrade(fake).fails(1, &["busy", "process 9", "handoff watch"]);
    }

    #[test]
    fn a_service_that_takes_no_requests_says_so() {
        let fake = asked(|client| client.say(UNSUPPORTED));
        upgrade(fake).fails(1, &["does not take such requests", "start a new process"]);
    }

    #[test]
    fn a_running_service_is_replaced_and_then_stopped() {
        let (_directory, path) = place();
        let mut first = http("127.0.0.1:0", &path);
        let _stop = StopAtTheEnd(&path);
        let ended = run(&["upgrade", &path, "--json", "--timeout", "60s"]);
        ended.succeeds();
        let lines = ended.lines();
        let events: Vec<&str> = lines.iter().filter_map(|line| line["event"].as_str()).collect();
        let wanted = ["upgrade", "spawned", "receive", "transferred", "ready", "release", "active"];
        assert_eq!(events, wanted);
        let outcome = lines.last().unwrap();
        assert_eq!((&outcome["type"], &outcome["outcome"]), (&json!("outcome"), &json!("completed")));
        first.ends_well();

        let stopped = run(&["stop", &path]);
        let pid = &outcome["successor_pid"];
        assert!(stopped.succeeds().contains(&format!("process {pid} has stopped, after")), "{}", stopped.out());
        run(&["status", &path]).fails(3, &["nobody listens"]);
    }

    #[test]
    fn a_connection_that_ends_without_an_outcome_is_a_failure() {
        let fake = begun(|client| client.event("release", "this process has stopped accepting"));
        upgrade(fake).fails(1, &["without an outcome", "stopped accepting", "nobody listens"]);
        upgrade(asked(|_client| {})).fails(1, &["without an outcome", "it said nothing"]);
    }

    #[test]
    fn a_connection_that_ends_without_an_outcome_leads_to_who_serves_now() {
        let fake = Fake::new(|script| {
            let mut client = script.accept();
            client.hear();
            client.event("release", "this process has stopped accepting");
            drop(client);
            script.accept_as(NEXT).wait_for_the_end();
        });
        upgrade(fake).fails(1, &["without an outcome", "generation 4, process 4177, answers there now"]);
    }

    #[test]
    fn a_service_that_hangs_is_not_waited_for() {
        let fake = Fake::new(|script| script.accept().wait_for_the_end());
        upgrade(fake).fails(3, &["no answer within 5s", &PID.to_string(), "may still do what it was asked"]);
    }

    #[test]
    fn the_timeout_is_sent_along_and_bounds_the_command() {
        let fake = Fake::new(|script| {
            let mut client = script.accept();
            assert_eq!(client.hear(), r#"{"type":"upgrade","timeout_ms":100}"#);
            client.event("progress", "warming up");
            client.wait_for_the_end();
        });
        let ended = run(&["upgrade", &fake.path, "--timeout", "100ms", "--grace", "100ms"]);
        ended.fails(4, &["no outcome after", "warming up", "goes on without this command"]);
        fake.ends();
    }

    #[test]
    fn garbage_ends_it_and_says_what_was_last() {
        upgrade(begun(|client| client.say("][")))
            .fails(1, &["cannot follow the upgrade", "a new process is to take over"]);
        upgrade(asked(|client| client.say("]["))).fails(3, &["no fd-handoff service"]);
    }

    #[test]
    fn what_the_service_says_does_nothing_to_the_terminal() {
        let fake = begun(|client| {
            client.event("progress", "\u{1b}[2Jgone");
            client.say(&outcome("failed", Some("\u{1b}]0;title\u{7}")));
        });
        let ended = upgrade(fake);
        ended.fails(1, &["]0;title"]);
        assert!(!format!("{}{}", ended.out(), ended.err()).contains('\u{1b}'), "{:?}", ended.0);
    }

    #[test]
    fn one_who_stops_reading_learns_the_outcome_all_the_same() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        drop(reader);
        let fake = begun(|client| client.say(&outcome("failed", Some("it was late"))));
        let ended = Ended(command(&["upgrade", &fake.path]).stdout(writer).output().unwrap());
        ended.fails(1, &["it was late"]);
        fake.ends();
    }

    /// The other end of a terminal on which the command runs.
    #[test]
    fn on_a_terminal_a_spinner_shows_how_it_goes() {
        let fake = begun(|client| {
            client.event("progress", "warming up, half way");
            // Whoever watches has seen it, as the command answers nothing: the spinner turns meanwhile.
            client.event("active", "the successor serves");
            client.say(&outcome("completed", None));
        });
        let terminal = nix::pty::openpty(None, None).unwrap();
        let theirs = || terminal.slave.try_clone().unwrap();
        let mut upgrade = command(&["upgrade", &fake.path]);
        let mut child = upgrade.stdout(theirs()).stderr(theirs()).env("TERM", "xterm").spawn().unwrap();
        drop((upgrade, terminal.slave));
        let mut shown = Vec::new();
        // It ends with EIO, when nobody has the other end any more.
        let _ = std::fs::File::from(terminal.master).read_to_end(&mut shown);
        assert!(child.wait().unwrap().success());
        let shown = String::from_utf8_lossy(&shown);
        assert!(shown.contains('⠁') || shown.contains('⠋') || shown.contains('⠙'), "{shown:?}");
        assert!(!shown.contains("progress   "), "a line instead of the spinner: {shown:?}");
        assert!(shown.contains("generation 4, process 4177, serves after 153 ms\r\n"), "{shown:?}");
        fake.ends();
    }
}

mod stop {
    use super::*;

    const STOPPING: &str = r#"{"type":"stopping"}"#;

    /// A service that is watched, told to stop, and goes on as the script says.
    fn stopping(script: impl FnOnce(fake::Script, Conversation) + Send + 'static) -> Fake {
        Fake::new(|service| {
            let mut watcher = service.accept();
            assert_eq!(watcher.hear(), r#"{"type":"watch"}"#);
            watcher.say(STATUS);
            let mut asker = service.accept();
            assert_eq!(asker.hear(), r#"{"type":"stop"}"#);
            asker.say(STOPPING);
            drop(asker);
            script(service, watcher);
        })
    }

    #[test]
    fn it_waits_until_the_service_has_stopped() {
        let fake = stopping(|service, mut watcher| {
            watcher.event("stop", "the service is to stop");
            service.stop();
        });
        let ended = run(&["stop", &fake.path]);
        let wanted = "\
process 4121 was told to stop
stop         the service is to stop
process 4121 has stopped, after it had been up for 1 min 1 s
";
        assert_eq!(ended.succeeds(), wanted);
        fake.ends();
    }

    #[test]
    fn a_service_that_takes_no_requests_leaves_it_to_others() {
        let fake = Fake::new(|service| {
            let mut watcher = service.accept();
            watcher.hear();
            watcher.say(STATUS);
            let mut asker = service.accept();
            asker.hear();
            asker.say(UNSUPPORTED);
            watcher.wait_for_the_end();
        });
        run(&["stop", &fake.path]).fails(1, &["does not take such requests", "end process 4121"]);
        fake.ends();
    }

    #[test]
    fn a_service_that_crashes_instead_is_a_failure() {
        let fake = stopping(|_service, _watcher| {});
        run(&["stop", &fake.path]).fails(1, &["left its socket behind"]);
        fake.ends();
    }

    #[test]
    fn the_timeout_bounds_the_waiting() {
        let fake = stopping(|_service, watcher| watcher.wait_for_the_end());
        run(&["stop", &fake.path, "--timeout", "200ms"]).fails(4, &["has not ended in time", "handoff status"]);
        fake.ends();
    }

    #[test]
    fn it_does_not_wait_where_it_need_not() {
        let fake = stopping(|_service, watcher| watcher.wait_for_the_end());
        assert_eq!(run(&["stop", &fake.path, "--no-wait"]).succeeds(), "process 4121 was told to stop\n");
        fake.ends();
    }

    #[test]
    fn a_process_has_ended_when_the_command_has() {
        let (_directory, path) = place();
        let mut service = http("127.0.0.1:0", &path);
        run(&["stop", &path, "--timeout", "60"]).succeeds();
        assert!(service.child.try_wait().unwrap().is_some_and(|status| status.success()));
    }

    /// Where the kernel names the process behind a connection.
    fn kernel_names_processes() -> bool {
        fd_handoff::client::Kernel::probe().unwrap().peer_pidfd.is_ok()
    }

    /// A service that closes its control socket in good order, and goes on until its standard input ends.
    #[test]
    #[ignore = "run by other tests as a process of its own"]
    fn lingering_service() {
        let Ok(path) = std::env::var("LINGERING_SERVICE") else { return };
        let listener = UnixListener::bind(&path).unwrap();
        println!("listening");
        let script = fake::Script::new(listener, path);
        let own = |line: &str| line.replace("4121", &std::process::id().to_string());
        let mut watcher = script.accept_as(&own(HELLO));
        watcher.hear();
        watcher.say(&own(STATUS));
        let mut asker = script.accept_as(&own(HELLO));
        asker.hear();
        asker.say(STOPPING);
        drop((asker, watcher));
        script.stop();
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
    }

    fn linger(path: &str) -> Running {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "stop::lingering_service", "--ignored", "--nocapture"]).env("LINGERING_SERVICE", path);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut service = Running { child, stdout };
        service.lines_until("listening");
        service
    }

    #[test]
    fn a_process_that_outlives_its_control_socket_is_waited_for() {
        if !kernel_names_processes() {
            return;
        }
        let (_directory, path) = place();
        let mut service = linger(&path);
        let mut stop = Running::start(&["stop", &path]);
        stop.lines_until("has closed its control socket; waiting for the process to end");
        assert!(service.child.try_wait().unwrap().is_none());
        drop(service.child.stdin.take());
        stop.lines_until("has stopped, after");
        assert_eq!(stop.ends(), (Some(0), String::new()));
        assert!(service.child.try_wait().unwrap().is_some());
    }

    #[test]
    fn a_process_that_does_not_end_in_time_is_told_by_the_exit_code() {
        if !kernel_names_processes() {
            return;
        }
        let (_directory, path) = place();
        let service = linger(&path);
        let pid = service.child.id().to_string();
        run(&["stop", &path, "--timeout", "100ms"]).fails(4, &["has not ended in time", &pid]);
    }

    #[test]
    fn the_process_that_has_taken_over_meanwhile_is_stopped_as_well() {
        let fake = stopping(|service, watcher| {
            drop(watcher);
            // Whoever looks who is there now, and then the stop.
            drop(service.accept_as(NEXT));
            let mut watcher = service.accept_as(NEXT);
            watcher.hear();
            watcher.say(&STATUS.replace("4121", "4177").replace(r#""generation":3"#, r#""generation":4"#));
            let mut asker = service.accept_as(NEXT);
            assert_eq!(asker.hear(), r#"{"type":"stop"}"#);
            asker.say(STOPPING);
            service.stop();
        });
        let ended = run(&["stop", &fake.path]);
        let wanted = "\
process 4121 was told to stop
process 4121 was being replaced: generation 4, process 4177, serves
process 4177 was told to stop
";
        assert!(ended.succeeds().starts_with(wanted), "{}", ended.out());
        assert!(ended.out().contains("process 4177 has stopped"), "{}", ended.out());
        fake.ends();
    }

    #[test]
    fn one_that_is_to_stop_now_is_told_twice() {
        let fake = stopping(|service, _watcher| {
            let mut asker = service.accept();
            assert_eq!(asker.hear(), r#"{"type":"stop"}"#);
            asker.say(STOPPING);
            service.stop();
        });
        run(&["stop", &fake.path, "--now"]).succeeds();
        fake.ends();
    }

    #[test]
    fn a_unit_whose_process_has_ended_has_stopped() {
        let (_directory, path) = place();
        let stop = |path: &str| Ended(command(&["stop", path]).env("SERVICE_RESULT", "success").output().unwrap());
        assert_eq!(stop(&path).succeeds(), "nobody serves there, and there is nothing to stop\n");
        drop(UnixListener::bind(&path).unwrap());
        stop(&path).succeeds();
        run(&["stop", &path]).fails(3, &[]);
    }

    #[test]
    fn a_service_that_is_started_anew_has_stopped() {
        let fake = stopping(|service, watcher| {
            drop(watcher);
            let anew = HELLO.replace("4121", "5000").replace(r#""generation":3"#, r#""generation":1"#);
            drop(service.accept_as(&anew));
            service.accept_as(&anew).wait_for_the_end();
        });
        let ended = run(&["stop", &fake.path]);
        assert!(
            ended.succeeds().ends_with("started the service anew: generation 1, process 5000\n"),
            "{}",
            ended.out()
        );
        fake.ends();
    }
}

mod check {
    use super::*;

    fn finding<'a>(report: &'a Value, check: &str) -> &'a Value {
        report["checks"].as_array().unwrap().iter().find(|finding| finding["check"] == check).unwrap()
    }

    fn report(ended: &Ended) -> Value {
        ended.lines().remove(0)
    }

    fn left_in(directory: &Path) -> usize {
        directory.read_dir().unwrap().count()
    }

    #[test]
    fn a_fit_place_is_tried_and_left_as_it_was() {
        let (directory, path) = place();
        let ended = run(&["check", &path, "--json"]);
        ended.succeeds();
        let report = report(&ended);
        assert_eq!((&report["fit"], &report["path"]), (&json!(true), &json!(path)));
        for check in ["memfd sealing", "pidfd_open", "directory", "socket", "handoff"] {
            assert_eq!(finding(&report, check)["verdict"], "ok", "{report:#}");
        }
        assert_eq!(left_in(directory.path()), 0);
    }

    #[test]
    fn a_service_that_runs_there_is_named_and_left_alone() {
        let (_directory, path) = place();
        let service = http("127.0.0.1:0", &path);
        let ended = run(&["check", &path]);
        let named = format!("a service runs there: http, generation 1, process {}", service.word("pid="));
        ended.succeeds();
        assert!(ended.unbroken().contains(&named), "{}", ended.out());
        assert!(run(&["status", &path]).succeeds().contains("No handoff has been tried yet."));
    }

    /// As another user than root none of these can be done.
    fn is_root() -> bool {
        nix::unistd::geteuid().is_root()
    }

    #[test]
    fn a_service_of_another_user_is_told_from_ones_own() {
        use std::os::unix::process::CommandExt;

        let (directory, path) = place();
        let service = http("127.0.0.1:0", &path);
        let found = report(&run(&["check", &path, "--json"]));
        assert!(finding(&found, "user")["found"].as_str().unwrap().ends_with("like the service that runs there"));
        assert!(finding(&found, "network")["found"].as_str().unwrap().ends_with("of the service that runs there"));
        drop(service);

        if !is_root() {
            return;
        }
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
        // The lock file of the first one is beside it.
        let path = format!("{path}.theirs");
        let mut service = Command::new(example::program("http"));
        let _service = serving(service.args(["--listen", "127.0.0.1:0", "--control", &path]).uid(65_534).gid(65_534));
        let found = report(&run(&["check", &path, "--json"]));
        let found = finding(&found, "user");
        assert_eq!(found["verdict"], "warning", "{found}");
        assert!(found["advice"].as_str().unwrap().contains("as user 65534"), "{found}");
    }

    #[test]
    fn a_service_in_another_network_namespace_is_a_failure() {
        let (_directory, path) = place();
        if !is_root() {
            return;
        }
        // As a container's: its processes are not to be seen, here or there.
        let mut service = Command::new("unshare");
        service.args(["--net", "--pid", "--fork", "--kill-child"]).arg(example::program("http"));
        let _service = serving(service.args(["--listen", "127.0.0.1:0", "--control", &path]));
        let mut check = Command::new("unshare");
        check.args(["--pid", "--fork", "--mount-proc"]).arg(env!("CARGO_BIN_EXE_handoff"));
        let from_a_container = check.args(["check", &path]).output().unwrap();
        let said = String::from_utf8_lossy(&from_a_container.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(from_a_container.status.code(), Some(1), "{said}");
        assert!(said.contains("1 of the sockets of the service there (http at 127.0.0.1:"), "{said}");

        let ended = run(&["check", &path, "--json"]);
        ended.fails(1, &["1 check failed"]);
        let found = report(&ended);
        let found = finding(&found, "network");
        assert_eq!(found["verdict"], "failed", "{found}");
        assert!(found["advice"].as_str().unwrap().contains("--foreign-netns"), "{found}");
        let allowed = run(&["check", &path, "--foreign-netns", "--json"]);
        allowed.succeeds();
        assert_eq!(finding(&report(&allowed), "network")["verdict"], "ok");
    }

    #[test]
    fn ready_is_whose_own_process_serves() {
        let (_directory, path) = place();
        run(&["ready", &path]).fails(3, &["nobody"]);
        let service = http("127.0.0.1:0", &path);
        let ended = run(&["ready", &path]);
        ended.succeeds();
        assert_eq!(ended.out(), format!("ready: process {}, generation 1, serves\n", service.word("pid=")));
        drop(service);
        if !is_root() {
            return;
        }
        // Another container's.
        let mut service = Command::new("unshare");
        service.args(["--pid", "--fork", "--kill-child"]).arg(example::program("http"));
        let _service = serving(service.args(["--listen", "127.0.0.1:0", "--control", &path]));
        run(&["ready", &path]).fails(1, &["another container"]);
        let mut within = Command::new("unshare");
        within.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        within.arg(env!("CARGO_BIN_EXE_handoff")).args(["ready", &path]).env("HANDOFF_INSTANCE", "");
        let from_a_third = within.output().unwrap();
        assert_eq!(from_a_third.status.code(), Some(1), "{from_a_third:?}");
    }

    #[test]
    fn a_service_whose_directory_was_replaced_is_found() {
        let (directory, _) = place();
        let inside = directory.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        let path = inside.join("control.sock");
        let path = path.to_str().unwrap();
        let service = http("127.0.0.1:0", path);
        let who = format!("process {} listens on a socket that had this path", service.word("pid="));
        // One that goes on puts it back.
        let pid = nix::unistd::Pid::from_raw(service.word("pid=").parse().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();

        std::fs::remove_dir_all(&inside).unwrap();
        let ended = run(&["check", path]);
        ended.fails(1, &["2 checks failed"]);
        assert!(ended.unbroken().contains(&who), "{}", ended.out());
        ended.fits();

        run(&["status", path]).fails(3, &[&who]);

        std::fs::create_dir(&inside).unwrap();
        run(&["status", path]).fails(3, &[&who]);
        let ended = run(&["check", path]);
        ended.fails(1, &["1 check failed"]);
        assert!(ended.unbroken().contains(&who), "{}", ended.out());

        // Now there are two, and one of them can be reached.
        let second = http("127.0.0.1:0", path);
        let ended = run(&["check", path]);
        ended.succeeds();
        let reached = format!("a service runs there: http, generation 1, process {};", second.word("pid="));
        let other = format!("process {} listens on another socket that had this path", service.word("pid="));
        assert!(ended.unbroken().contains(&reached) && ended.unbroken().contains(&other), "{}", ended.out());
    }

    #[test]
    fn a_directory_that_is_not_there_is_a_failure_with_advice() {
        let (directory, _) = place();
        let path = directory.path().join("nowhere/control.sock");
        let ended = run(&["check", path.to_str().unwrap()]);
        ended.fails(1, &["not fit for a control socket", "1 check failed"]);
        assert!(ended.unbroken().contains("RuntimeDirectory="), "{}", ended.out());
        ended.fits();
    }

    #[test]
    fn a_directory_that_everybody_writes_to_is_a_warning() {
        let (directory, path) = place();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let ended = run(&["check", &path, "--json"]);
        ended.succeeds();
        let report = report(&ended);
        let found = finding(&report, "directory");
        assert_eq!(found["verdict"], "warning", "{found}");
        assert!(found["advice"].as_str().unwrap().contains("chmod go-w"), "{found}");
        assert_eq!(finding(&report, "handoff")["verdict"], "ok");
    }

    #[test]
    fn a_long_path_works_and_a_long_name_does_not() {
        let (directory, _) = place();
        let deep = directory.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let ended = run(&["check", deep.join("control.sock").to_str().unwrap(), "--json"]);
        ended.succeeds();
        assert_eq!(finding(&report(&ended), "path")["verdict"], "warning");
        assert_eq!(finding(&report(&ended), "handoff")["verdict"], "ok");

        let ended = run(&["check", directory.path().join("n".repeat(81)).to_str().unwrap()]);
        ended.fails(1, &["1 check failed"]);
        assert!(ended.out().contains("choose a shorter file name"), "{}", ended.out());
    }

    #[test]
    fn what_is_there_already_is_told_apart() {
        let (_directory, path) = place();
        drop(UnixListener::bind(&path).unwrap());
        let ended = run(&["check", &path]);
        ended.succeeds();
        assert!(ended.unbroken().contains("the next start replaces it"), "{}", ended.out());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        let ended = run(&["check", &path]);
        ended.fails(1, &["1 check failed"]);
        assert!(ended.unbroken().contains("something that is not a socket"), "{}", ended.out());
    }
}

mod unit {
    use super::*;

    /// What examples/systemd has, and how it was made.
    const EXAMPLES: [&[&str]; 3] =
        [&["--socket", "http=0.0.0.0:8080"], &["--template"], &["--type", "notify-reload", "--name", "app-by-signal"]];

    fn write_to(directory: &Path, more: &[&str]) {
        let path = "/run/app/handoff.sock";
        let mut args = vec!["unit", "/usr/bin/app", "--path", path, "--handoff", "/usr/bin/handoff"];
        args.extend(["--output", directory.to_str().unwrap()].iter().chain(more));
        args.extend(["--", "--listen", "0.0.0.0:8080", "--control", path]);
        run(&args).succeeds();
    }

    #[test]
    fn the_examples_are_what_it_writes() {
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/systemd");
        let written = tempfile::tempdir().unwrap();
        for more in EXAMPLES {
            write_to(written.path(), more);
        }
        let files = |directory: &Path| {
            let files = directory.read_dir().unwrap().map(|file| file.unwrap());
            let read = |file: std::fs::DirEntry| (file.file_name(), std::fs::read_to_string(file.path()).unwrap());
            files.map(read).collect::<std::collections::BTreeMap<_, _>>()
        };
        if std::env::var_os("FD_HANDOFF_WRITE").is_some() {
            for (name, text) in files(written.path()) {
                std::fs::write(kept.join(name), text).unwrap();
            }
        }
        assert_eq!(files(&kept), files(written.path()), "FD_HANDOFF_WRITE=1 writes them anew");
    }

    #[test]
    fn it_prints_what_it_would_write_and_says_what_systemd_does_not_take() {
        let ended = run(&["unit", "/usr/bin/app", "--path", "/run/app/handoff.sock", "--socket", "web=[::]:80"]);
        assert!(ended.succeeds().contains("# app-web.socket\n"), "{}", ended.out());
        assert!(ended.out().contains("ListenStream=[::]:80\nFileDescriptorName=web\nService=app.service\n"));
        run(&["unit", "app", "--path", "/run/app/handoff.sock"]).fails(1, &["app: systemd needs the whole path"]);
    }
}

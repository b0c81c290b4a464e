//! The sessions of `docs/inspecting.md` are what a terminal shows.
//!
//! With `FD_HANDOFF_WRITE=1` the page is written anew.

#![cfg(all(feature = "tokio", feature = "bincode"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "common/example.rs"]
mod example;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use example::program;

const BEGIN: &str = "```console\n";
const END: &str = "```\n";

/// The service that the page is about. Whatever generation is left is killed with its process group.
struct Service {
    first: Child,
    /// Kept open for the generations to come, which say that they are ready.
    _output: BufReader<ChildStdout>,
}

impl Service {
    fn start(control: &Path) -> Service {
        use std::os::unix::process::CommandExt;

        let mut command = Command::new(program("http"));
        command.args(["--listen", "127.0.0.1:0", "--slow-start", "200", "--control"]).arg(control);
        // Where these tests run is not what the page is about.
        command.env("HANDOFF_INSTANCE", "");
        let mut first = command.stdout(Stdio::piped()).process_group(0).spawn().unwrap();
        let mut output = BufReader::new(first.stdout.take().unwrap());
        let mut ready = String::new();
        output.read_line(&mut ready).unwrap();
        assert!(ready.starts_with("ready generation=1"), "{ready:?}");
        Service { first, _output: output }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.first.id() as i32);
        // There is none where the page's last session has stopped the service.
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.first.wait();
    }
}

/// What a terminal shows of these commands.
fn session(commands: &[&str], directory: &Path, control: &Path) -> String {
    let script: String =
        commands.iter().map(|command| format!("cat <<'SHOWN'\n$ {command}\nSHOWN\n{command}\n")).collect();
    let mut shell = Command::new("sh");
    let output = shell.arg("-c").arg(script).current_dir(directory).env("HANDOFF_SOCKET", control).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The text with a `#` in the place of each number.
fn without_numbers(text: &str) -> String {
    let mut plain = String::new();
    for character in text.chars() {
        match character {
            '0'..='9' if plain.ends_with('#') => {}
            '0'..='9' => plain.push('#'),
            other => plain.push(other),
        }
    }
    plain
}

#[test]
#[ignore = "needs socat"]
fn the_sessions_are_what_a_terminal_shows() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/inspecting.md");
    let told = fs::read_to_string(&page).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let control = directory.path().join("http.sock");
    let _service = Service::start(&control);

    let mut parts = told.split(BEGIN);
    let mut found = parts.next().unwrap().to_owned();
    for part in parts {
        let (block, text) = part.split_once(END).unwrap();
        let commands: Vec<&str> = block.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
        found += &[BEGIN, &session(&commands, directory.path(), &control), END, text].concat();
    }
    if std::env::var_os("FD_HANDOFF_WRITE").is_some() {
        return fs::write(&page, found).unwrap();
    }
    let (found, told) = (without_numbers(&found), without_numbers(&told));
    for (found, told) in found.lines().zip(told.lines()) {
        assert_eq!(found, told, "FD_HANDOFF_WRITE=1 writes the page anew");
    }
    assert_eq!(found.lines().count(), told.lines().count());
}

#[test]
fn numbers_are_left_out_of_the_comparison() {
    assert_eq!(without_numbers("pid 4711, 0.2.10"), "pid #, #.#.#");
}

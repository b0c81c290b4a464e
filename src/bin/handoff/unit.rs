//! `handoff unit`: writes the unit files of a service, with the settings that upgrades, stops and crashes need.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueEnum};

use crate::output::Output;
use crate::problem::Problem;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The service's program, by its whole path
    #[arg(value_name = "PROGRAM")]
    program: String,
    /// The control socket that the service listens at, best in a directory of its own under /run, which systemd then makes
    #[arg(long, value_name = "SOCKET")]
    path: PathBuf,
    /// A socket that systemd is to hold: a name that the service takes it by, and IP:PORT, udp:IP:PORT, a path, or
    /// seqpacket:PATH. Several of one name are passed together
    #[arg(long = "socket", value_name = "NAME=ADDRESS", conflicts_with = "template")]
    sockets: Vec<Passed>,
    /// A template, each instance of which takes over from the one before: app@blue, app@green
    #[arg(long)]
    template: bool,
    /// How systemd reloads the service: by the command, which waits and fails as the upgrade does, or by SIGHUP
    #[arg(long = "type", value_enum, default_value_t = Reload::Notify)]
    reload: Reload,
    /// What the unit is called; else as the program's file is
    #[arg(long)]
    name: Option<String>,
    /// The directory to write the files to, such as /etc/systemd/system; else they are printed
    #[arg(long, value_name = "DIRECTORY")]
    output: Option<PathBuf>,
    /// This command's own path on the machine that the unit is for; else the one that it runs by now
    #[arg(long, value_name = "PATH")]
    handoff: Option<String>,
    /// The program's arguments
    #[arg(last = true, value_name = "ARGUMENTS")]
    arguments: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Reload {
    Notify,
    NotifyReload,
}

/// A socket that systemd passes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Passed {
    name: String,
    /// The setting that makes it.
    listen: &'static str,
    address: String,
}

impl FromStr for Passed {
    type Err = String;

    fn from_str(text: &str) -> Result<Passed, String> {
        let (name, address) = text.split_once('=').ok_or("not NAME=ADDRESS")?;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(fits) {
            return Err("a name has letters, digits, and the characters -_.".to_owned());
        }
        let (listen, address) = match address.split_once(':') {
            Some(("udp", address)) => ("ListenDatagram", address),
            Some(("seqpacket", address)) => ("ListenSequentialPacket", address),
            _ => ("ListenStream", address),
        };
        if address.is_empty() || address.chars().any(char::is_control) {
            return Err("an address is missing".to_owned());
        }
        Ok(Passed { name: name.to_owned(), listen, address: address.to_owned() })
    }
}

pub(crate) fn run(options: Options, out: &mut Output) -> Result<(), Problem> {
    let files = Service::new(&options)?.files();
    let Some(directory) = &options.output else {
        return files.iter().try_for_each(|(name, text)| out.line(format_args!("# {name}\n{}", text.trim_end())));
    };
    for (name, text) in files {
        let path = directory.join(name);
        fs::write(&path, text).map_err(|error| Problem::failed(format!("{}: {error}", path.display())))?;
        out.line(format_args!("wrote {}", path.display()))?;
    }
    Ok(())
}

/// What the files are made of.
struct Service<'a> {
    options: &'a Options,
    name: String,
    /// The command, and the control socket, as they stand in a unit file.
    handoff: String,
    path: String,
}

impl Service<'_> {
    fn new(options: &Options) -> Result<Service<'_>, Problem> {
        let program = Path::new(&options.program);
        let absolute = [program, &options.path].into_iter().find(|path| !path.is_absolute());
        if let Some(relative) = absolute {
            return Err(Problem::failed(format!("{}: systemd needs the whole path", relative.display())));
        }
        let file_name = program.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = options.name.clone().or(file_name);
        let name = name.ok_or_else(|| Problem::failed(format!("{}: no file name", options.program)))?;
        let own = || env::current_exe().map(|path| path.to_string_lossy().into_owned());
        let handoff = options.handoff.clone().map_or_else(own, Ok);
        let handoff =
            handoff.map_err(|error| Problem::failed(format!("where this command is cannot be told: {error}")))?;
        let path = quoted(&options.path.to_string_lossy());
        Ok(Service { options, name, handoff: quoted(&handoff), path })
    }

    fn files(&self) -> Vec<(String, String)> {
        let at = if self.options.template { "@" } else { "" };
        let mut files = vec![(format!("{}{at}.service", self.name), self.service())];
        files.extend(self.names().into_iter().map(|name| (self.socket_unit(name), self.socket(name))));
        files
    }

    fn socket_unit(&self, name: &str) -> String {
        format!("{}-{name}.socket", self.name)
    }

    fn service(&self) -> String {
        let Service { options, name, handoff, path } = self;
        let command = [&options.program].into_iter().chain(&options.arguments).map(|word| quoted(word));
        let command = command.collect::<Vec<_>>().join(" ");
        let instance = if options.template { " (%i)" } else { "" };
        let mut parts = vec![
            WRITTEN.to_owned(),
            format!("[Unit]\nDescription={name}{instance}\nAfter=network.target\n\n[Service]"),
            match options.reload {
                Reload::Notify => READY.to_owned(),
                Reload::NotifyReload => READY_AND_RELOAD.to_owned(),
            },
            NOTIFY_ACCESS.to_owned(),
            format!("{CHECK}\nExecStartPre=-{handoff} check {path}\nExecStart={command}"),
        ];
        if options.reload == Reload::Notify {
            parts.push(format!("{RELOAD}\nExecReload={handoff} upgrade {path}"));
        }
        parts.push(format!("{STOP}\nExecStop={handoff} stop {path}"));
        parts.push(self.directory());
        parts.push(if options.template { RESTART_OF_A_TEMPLATE } else { RESTART }.to_owned());
        parts.push(WATCHDOG.to_owned());
        parts.extend(self.names().into_iter().map(|socket| format!("Sockets={}", self.socket_unit(socket))));
        parts.push("\n[Install]\nWantedBy=multi-user.target\n".to_owned());
        parts.join("\n")
    }

    /// Each name that sockets have, once.
    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.options.sockets.iter().map(|socket| socket.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn directory(&self) -> String {
        let parent = self.options.path.parent().unwrap_or(Path::new("/"));
        let own = parent.strip_prefix("/run").ok().filter(|own| !own.as_os_str().is_empty());
        let Some(own) = own else {
            return format!(
                "# {} has to be there: it is no directory under /run that systemd makes.",
                parent.display()
            );
        };
        let preserve = if self.options.template {
            "# It is all instances': the end of one is not to remove the control socket of the next.\n\
             RuntimeDirectoryPreserve=yes"
        } else {
            "RuntimeDirectoryPreserve=restart"
        };
        format!("{DIRECTORY}\nRuntimeDirectory={}\nRuntimeDirectoryMode=0700\n{preserve}", own.display())
    }

    fn socket(&self, name: &str) -> String {
        let listens = self.options.sockets.iter().filter(|socket| socket.name == name);
        let listens: String = listens.map(|socket| format!("{}={}\n", socket.listen, socket.address)).collect();
        let service = &self.name;
        format!(
            "{WRITTEN}\n[Unit]\nDescription={service}: {name}\n\n[Socket]\n\
             # systemd binds this, and holds it while nobody serves: what connects then waits, and is not refused. The service\n\
             # takes it by this name.\n{listens}FileDescriptorName={name}\nService={service}.service\n\n\
             [Install]\nWantedBy=sockets.target\n"
        )
    }
}

/// As a word of a command line in a unit file: see `systemd.service(5)`, *Command lines*.
fn quoted(word: &str) -> String {
    let escaped = word.replace('%', "%%").replace('$', "$$");
    let plain = |char: char| char.is_alphanumeric() || "%$-_./:=,+@".contains(char);
    if !escaped.is_empty() && escaped.chars().all(plain) {
        return escaped;
    }
    format!("\"{}\"", escaped.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

const WRITTEN: &str = "# Written by `handoff unit`. A change of yours belongs into a drop-in: systemctl edit.\n";

const READY: &str = "\
# The service says when it serves, and which process does: it is built with the feature `systemd`.
Type=notify";

const READY_AND_RELOAD: &str = "\
# The service says when it serves, and which process does: it is built with the feature `systemd`. `systemctl reload` is an
# upgrade, asked for by a signal that the service hears (upgrade_on). It waits until that has ended, and exits with 0 even where
# it failed: StatusText= then says why. --type notify has a reload that fails.
Type=notify-reload
ReloadSignal=SIGHUP";

const NOTIFY_ACCESS: &str = "\
# Not only the main process speaks: where a new one crashes soon after it took over, the old one takes the service back, and
# says so.
NotifyAccess=all";

const CHECK: &str = "\
# Says in the journal what would not do here. It keeps no service from starting.";

const RELOAD: &str = "\
# An upgrade: the program that is on disk then takes over. It waits until the new process serves, and fails where it does not;
# the old one then serves on.";

const STOP: &str = "\
# Whichever process serves drains, and ends. Without it, systemd kills a main process at once that it has not started itself,
# which is each one after an upgrade. How long it may take is the service's to say, whatever TimeoutStopSec= is.";

const DIRECTORY: &str = "\
# Where the control socket is.";

const RESTART: &str = "\
Restart=on-failure
RestartSec=100ms";

const RESTART_OF_A_TEMPLATE: &str = "\
# Never `always`: an instance that was replaced has ended well, and would take the service back.
Restart=on-failure
RestartSec=100ms";

const WATCHDOG: &str = "\
# Ends a service that hangs. Whoever serves gives the signs of life by itself.
WatchdogSec=30";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_means_in_a_unit_what_it_meant() {
        assert_eq!(quoted("/usr/bin/app"), "/usr/bin/app");
        assert_eq!(quoted("100%"), "100%%");
        assert_eq!(quoted("$HOME"), "$$HOME");
        assert_eq!(quoted("two words"), "\"two words\"");
        assert_eq!(quoted(r#"a "quoted" \"#), r#""a \"quoted\" \\""#);
        assert_eq!(quoted(""), "\"\"");
    }

    #[test]
    fn a_socket_has_a_name_a_kind_and_an_address() {
        let parsed = |text: &str| text.parse::<Passed>().map(|it| (it.name, it.listen, it.address));
        let passed = |name: &str, listen, address: &str| Ok((name.to_owned(), listen, address.to_owned()));
        assert_eq!(parsed("http=[::]:80"), passed("http", "ListenStream", "[::]:80"));
        assert_eq!(parsed("quic=udp:0.0.0.0:443"), passed("quic", "ListenDatagram", "0.0.0.0:443"));
        assert_eq!(parsed("jobs=seqpacket:/run/jobs"), passed("jobs", "ListenSequentialPacket", "/run/jobs"));
        assert!(parsed("http").is_err() && parsed("a b=1:2").is_err() && parsed("http=").is_err());
    }
}

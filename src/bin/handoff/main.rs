//! `handoff`: looks into a running service, tells it what to do, and says whether a place is fit for one. Made of the
//! library's public calls alone.

mod after;
mod check;
mod completions;
mod format;
mod keep;
mod output;
mod problem;
mod ready;
mod run;
mod status;
mod stop;
mod style;
mod systemd;
mod table;
mod unit;
mod upgrade;
mod watch;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};

use output::Output;
use problem::Problem;

/// Looks into a service that hands itself over, and tells it what to do.
///
/// A service built on fd-handoff listens on a control socket, a Unix socket at a path. Over it, a new process takes the
/// running one's sockets and state without refusing a connection. This command shows what the service is doing, follows
/// a handoff step by step, asks for an upgrade or a stop, and checks whether a directory is fit for a control socket.
/// Looking never disturbs a handoff.
#[derive(Debug, Parser)]
#[command(name = "handoff", version, after_help = EXIT_CODES, after_long_help = MORE)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 the service said no, or it failed; 2 wrong usage; 3 no service reachable;
4 not done within --timeout.";

const MORE: &str = "\
Examples:
  handoff status /run/app/handoff.sock             what it is doing, and how its last handoffs went
  handoff status /run/app/handoff.sock --json      the same for a program
  handoff watch /run/app/handoff.sock              each step of each handoff, as it happens
  handoff upgrade /run/app/handoff.sock            replace the service, and fail if that fails
  handoff upgrade /run/app/handoff.sock --timeout 30s && echo replaced
  handoff stop /run/app/handoff.sock --timeout 60  end it, and fail if it has not ended in a minute
  handoff ready /run/app/handoff.sock              HEALTHCHECK: does this container's process serve?
  handoff check /run/app/handoff.sock              before the first start: would it work here?
  handoff unit /usr/bin/app --path /run/app/handoff.sock   the unit for systemd
  export HANDOFF_SOCKET=/run/app/handoff.sock      and leave the path out

Environment:
  HANDOFF_SOCKET   the control socket, where no SOCKET is given
  NO_COLOR         no colours; there are none outside of a terminal in any case
  TZ               the time zone of the times that watch prints

Exit codes:
  0   done
  1   the service said no, or what was asked for failed; the reason is on stderr, in one line
  2   wrong usage
  3   no service reachable: nobody listens there, this user may not connect, or there is no answer
  4   not done within --timeout: the service goes on with it, without this command

The control socket admits the service's own user and root, unless the service is configured otherwise.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows what the service is doing, and how its last handoffs went
    Status(status::Options),
    /// Shows what happens, as it happens, from one generation to the next
    Watch(watch::Options),
    /// Has the service replace itself by a new process, and shows how it goes
    ///
    /// Exits with 0 only when the new process serves. In every other case the reason is on stderr, in one line.
    Upgrade(upgrade::Options),
    /// Tells the service to stop, and waits until its process has ended
    ///
    /// What the process held is free then: a start right after it finds its ports, locks and files. A new process that takes
    /// over meanwhile is stopped, too. On a kernel before Linux 6.5 it waits until the service has closed its control socket.
    ///
    /// As ExecStop= of a unit it succeeds where no service is left, and leaves one alone that another unit runs.
    Stop(stop::Options),
    /// Says whether the process that serves is one of this container, for health checks and probes
    ///
    /// While the next container initialises, the old one's process answers at the control socket and at the service's
    /// ports. Ready is a container whose own process serves: one of the same instance as this command, or of the same pid namespace
    /// and, where containers share that, of the same cgroup.
    Ready(ready::Options),
    /// Says whether a place is fit for a control socket, and tries a handoff there
    ///
    /// Looks at the kernel, the limits, the path and its directory, the pid and network namespaces, and then hands a
    /// pipe from one process to another over a socket of its own beside the path. Nothing is left behind, and a
    /// service that runs there is only greeted. Run it as the user, and in the container, that the service will have.
    Check(check::Options),
    /// Keeps a service's sockets and last state while no process serves it
    ///
    /// Run it beside the service: in the container that owns the network namespace, or as a unit of its own. When the service
    /// crashes or is stopped, nobody is refused: connections wait, and the next process takes over from the keeper. It ends on
    /// SIGTERM; while another process serves, nothing happens to the service then, and a keeper that is started again receives
    /// everything anew.
    Keep(keep::Options),
    /// Starts a service, keeps it while no process serves, and starts it again after a crash
    ///
    /// For a container, as process 1, or under any supervisor: it stays from one generation to the next, so that an upgrade
    /// (`handoff upgrade`, or SIGHUP) replaces the service inside the same container. SIGTERM and SIGINT stop the service, and this
    /// command ends as its last process did. A crash refuses nobody: connections wait until the command has been started again.
    Run(run::Options),
    /// Writes the systemd unit of a service, and its sockets', with the settings that upgrades, stops and crashes need
    ///
    /// For example `handoff unit /usr/bin/app --path /run/app/handoff.sock --output /etc/systemd/system -- --port 80`.
    Unit(unit::Options),
    /// Prints the completions for a shell
    ///
    /// For bash: `handoff completions bash > ~/.local/share/bash-completion/completions/handoff`.
    Completions(completions::Options),
}

/// Which service.
#[derive(Debug, Args)]
struct Service {
    /// The path of the service's control socket
    #[arg(value_name = "SOCKET", env = "HANDOFF_SOCKET", hide_env_values = true)]
    socket: Option<OsString>,
}

impl Service {
    /// The path. Without one there is nothing to do, and clap says so.
    fn path(self) -> PathBuf {
        let missing = || {
            let message = "which service? Pass the path of its control socket (handoff status /run/app/handoff.sock), or set \
                           HANDOFF_SOCKET to it; ss -xlp lists the sockets that processes listen on";
            Cli::command().error(ErrorKind::MissingRequiredArgument, message).exit()
        };
        // A variable that is set to nothing names none.
        self.socket.filter(|path| !path.is_empty()).map_or_else(missing, PathBuf::from)
    }
}

fn main() -> ExitCode {
    match check::successor()
        .map(|done| done.map(|()| 0))
        .unwrap_or_else(|| run(Cli::parse().command, &mut Output::new()))
    {
        Ok(code) => ExitCode::from(code),
        Err(problem) => problem.report(),
    }
}

/// Returns the exit code where nothing failed.
fn run(command: Command, out: &mut Output) -> Result<u8, Problem> {
    if let Command::Run(options) = command {
        return run::run(options);
    }
    let done = match command {
        Command::Run(_) => Ok(()),
        Command::Status(options) => status::run(options, out),
        Command::Watch(options) => watch::run(options, out),
        Command::Upgrade(options) => upgrade::run(options, out),
        Command::Stop(options) => stop::run(options, out),
        Command::Ready(options) => ready::run(options, out),
        Command::Check(options) => check::run(options, out),
        Command::Keep(options) => keep::run(options),
        Command::Unit(options) => unit::run(options, out),
        Command::Completions(options) => completions::run(&options, out),
    };
    done.map(|()| 0)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }
}

//! What was measured on what.

use std::fs;
use std::process::Command;

/// The machine and the versions, as a table.
pub(crate) fn description() -> String {
    let mut lines =
        vec![("processor", processor()), ("memory", memory()), ("kernel", read("/proc/sys/kernel/osrelease"))];
    lines.push(("compiler", output("rustc", &["--version"])));
    lines.push(("day", output("date", &["--utc", "+%Y-%m-%d"])));
    lines.push(("versions", versions()));
    let line = |(what, value): (&str, String)| format!("| {what} | {} |\n", value.trim());
    format!("| | |\n| --- | --- |\n{}", lines.into_iter().map(line).collect::<String>())
}

fn processor() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{}, {cores} cores, shared with other machines", field("/proc/cpuinfo", "model name"))
}

fn memory() -> String {
    let kib: u64 = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
    format!("{} GiB", kib >> 20)
}

/// What the lock file says of those that are compared.
fn versions() -> String {
    const COMPARED: &[&str] =
        &["fd-handoff", "ecdysis", "shellflip", "beyond-handoff", "pingora-core", "tokio", "hyper"];
    let lock = include_str!("../Cargo.lock");
    let version = |name: &&str| {
        let package = lock.split("[[package]]").find(|package| package.contains(&format!("name = \"{name}\"\n")))?;
        let version = package.lines().find_map(|line| line.strip_prefix("version = "))?;
        Some(format!("{name} {}", version.trim_matches('"')))
    };
    COMPARED.iter().filter_map(version).collect::<Vec<_>>().join(", ")
}

fn field(file: &str, name: &str) -> String {
    let text = read(file);
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
    value.unwrap_or("unknown").trim().to_owned()
}

fn read(file: &str) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output.map_or_else(|error| error.to_string(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
}

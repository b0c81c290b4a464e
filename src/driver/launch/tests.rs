#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::os::unix::fs::symlink;

use super::*;

/// A directory with the programs `1/program` and `2/program`, and `current`, which leads to `1`.
fn releases() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for release in ["1", "2"] {
        fs::create_dir(directory.path().join(release)).unwrap();
        fs::write(directory.path().join(release).join("program"), release).unwrap();
    }
    symlink("1", directory.path().join("current")).unwrap();
    directory
}

#[test]
fn a_path_is_from_the_directory_and_its_links_stay() {
    let directory = releases();
    let at = |named: &str| located(Path::new(named), Some(directory.path()), None);
    assert_eq!(at("current/program"), Some(directory.path().join("current/program")));
    assert_eq!(at("./program"), Some(directory.path().join("./program")));
    assert_eq!(at("/bin/program"), Some(PathBuf::from("/bin/program")));
    assert_eq!(located(Path::new("/bin/program"), None, None), Some(PathBuf::from("/bin/program")));
    assert_eq!(located(Path::new("./program"), None, None), None, "from nowhere");
}

#[test]
fn a_name_alone_is_looked_up_as_the_shell_does() {
    let directory = releases();
    let at = |path: &str| located(Path::new("program"), Some(directory.path()), Some(path.into()));
    assert_eq!(at("nowhere:current:2"), Some(directory.path().join("current/program")), "entries may be relative");
    assert_eq!(at(directory.path().join("2").to_str().unwrap()), Some(directory.path().join("2/program")));
    assert_eq!(at("nowhere:"), None, "the empty entry is the directory itself");
    fs::write(directory.path().join("program"), "").unwrap();
    assert_eq!(at("nowhere:"), Some(directory.path().join("program")));
}

#[test]
fn what_runs_is_told_by_the_file_and_not_by_the_name() {
    let directory = tempfile::tempdir().unwrap();
    let (link, copy) = (directory.path().join("link"), directory.path().join("copy"));
    symlink(env::current_exe().unwrap(), &link).unwrap();
    fs::copy(env::current_exe().unwrap(), &copy).unwrap();
    assert!(is_running(&link) && !is_running(&copy) && !is_running(Path::new("/nonexistent")));
}

#[test]
fn a_program_that_was_replaced_while_it_started_is_looked_up_by_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("program");
    let marked = directory.path().join("program (deleted)");
    assert_eq!(undeleted(marked.clone()), program);
    assert_eq!(undeleted(program.clone()), program);
    fs::write(&marked, "its name is its own").unwrap();
    assert_eq!(undeleted(marked.clone()), marked);
}

#[test]
fn this_program_is_started_anew_with_its_arguments_from_where_it_was_started() {
    let program = OwnProgram::as_started();
    let command = program.command();
    assert!(is_running(Path::new(command.get_program())));
    assert!(command.get_args().eq(env::args_os().skip(1)));
    assert!(same_file(command.get_current_dir().unwrap(), Path::new(".")));
}

#[test]
fn a_process_whose_end_is_that_of_all_starts_nobody() {
    let why = |own, parent, name| ends_everything(own, parent, name);
    assert!(why(1, 0, None).unwrap().contains("process 1"));
    assert!(why(7, 0, None).unwrap().contains("outside"));
    assert!(why(7, 1, Some("tini")).unwrap().starts_with("tini "));
    assert!(why(7, 4, Some("docker-init")).is_some(), "in the pid namespace of the host");
    assert!(why(700, 600, Some("containerd-shim")).unwrap().contains("as a container"), "docker run --pid host");
    assert!(why(700, 600, Some("conmon")).is_some());
    assert_eq!(why(7, 1, Some("systemd")), None);
    assert_eq!(why(7, 1, Some("s6-svscan")), None);
    assert_eq!(why(7, 1, None), None);
}

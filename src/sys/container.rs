//! Which container this process is in, as far as the kernel tells: something that outlives a restart of the container, and that no
//! two containers share.

use std::fs;
use std::sync::OnceLock;

/// The id in the cgroup's path, or else the upper directory of the root file system. Nothing outside of a container, and where neither
/// is to be seen. The host's name and the mounts of its files are those of another container where two share a network. Asked once: a
/// process stays in its container.
pub(crate) fn id() -> Option<&'static str> {
    static ID: OnceLock<Option<String>> = OnceLock::new();
    ID.get_or_init(look).as_deref()
}

fn look() -> Option<String> {
    let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    if let Some(id) = in_cgroup(&cgroup) {
        return Some(id.to_owned());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    upper_directory(&mounts).map(str::to_owned)
}

/// Whether a process of our own pid namespace is in another container than this one, as far as its cgroup tells: containers may share a
/// pid namespace.
pub(crate) fn is_of_another(pid: u32) -> bool {
    let cgroup = |who: &str| fs::read_to_string(format!("/proc/{who}/cgroup")).unwrap_or_default();
    are_apart(&cgroup("self"), &cgroup(&pid.to_string()))
}

/// Both as they are seen from here: in a cgroup namespace of its own a container is at `/`, and another one at `/../ID`. See
/// `cgroup_namespaces(7)`.
fn are_apart(own: &str, other: &str) -> bool {
    if own.is_empty() || other.is_empty() {
        return false; // Nothing is to be seen.
    }
    let is_outside = |line: &str| line.splitn(3, ':').nth(2).is_some_and(|path| path.starts_with("/.."));
    in_cgroup(own) != in_cgroup(other) || other.lines().any(is_outside)
}

/// `0::/system.slice/docker-ID.scope`, `12:pids:/docker/ID`, `…/kubepods/…/ID`: 64 hexadecimal digits. See `cgroups(7)`.
fn in_cgroup(cgroup: &str) -> Option<&str> {
    cgroup.lines().find_map(|line| {
        let path = line.splitn(3, ':').nth(2)?;
        // The innermost is this container's, where one runs in another.
        path.rsplit('/').find_map(|part| part.split(['-', '.', ':']).find(|word| is_id(word)))
    })
}

fn is_id(word: &str) -> bool {
    word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `… / / rw - overlay overlay rw,lowerdir=…,upperdir=/var/lib/docker/overlay2/ID/diff,…`. See `proc_pid_mountinfo(5)`.
fn upper_directory(mounts: &str) -> Option<&str> {
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/"))?;
    let options = root.rsplit(' ').next()?;
    let upper = options.split(',').find_map(|option| option.strip_prefix("upperdir="))?;
    // What is last in a path tells one from the other.
    let from = (0..upper.len())
        .find(|from| upper.len() - from <= crate::core::wire::MAX_INSTANCE && upper.is_char_boundary(*from));
    from.map(|from| &upper[from..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f1c0a5be6f94d7d8c2a1b0e9f8d7c6b5a493827160504f3e2d1c0b9a8f7e6d5";

    #[test]
    fn the_id_is_in_the_path_of_the_cgroup() {
        for path in [
            format!("0::/system.slice/docker-{ID}.scope"),
            format!("12:pids:/docker/{ID}\n11:memory:/docker/{ID}"),
            format!("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope"),
            format!("0::/machine.slice/libpod-{ID}.scope/container"),
            format!("0::/docker/{}/docker/{ID}", ID.replace('3', "4")),
        ] {
            assert_eq!(in_cgroup(&path), Some(ID), "{path}");
        }
        for path in ["0::/", "0::/user.slice/user-0.slice/session-1.scope", "0::/system.slice/app.service", ""] {
            assert_eq!(in_cgroup(path), None, "{path}");
        }
    }

    #[test]
    fn containers_of_one_pid_namespace_are_told_apart_by_their_cgroups() {
        let (own, other) =
            (format!("1:cpu:/docker/{ID}\n0::/docker/{ID}"), format!("0::/docker/{}", ID.replace('3', "4")));
        assert!(are_apart(&own, &other));
        assert!(!are_apart(&own, &own));
        assert!(are_apart(&own, "0::/system.slice/app.service"), "the host's");
        // In a cgroup namespace of its own.
        assert!(!are_apart("0::/", "0::/"));
        assert!(are_apart("0::/", &format!("1:cpu:/../{ID}\n0::/../{ID}")));
        assert!(are_apart("0::/", "0::/../../system.slice/app.service"));
        // Outside of containers, and where nothing is to be seen.
        assert!(!are_apart("0::/user.slice/session-1.scope", "0::/system.slice/app.service"));
        assert!(!are_apart("0::/", ""));
    }

    #[test]
    fn or_else_in_the_root_mount() {
        let root = format!(
            "1 0 0:50 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/a:/b,upperdir=/var/lib/docker/overlay2/{ID}/diff,workdir=/w"
        );
        let mounts = format!("{root}\n2 1 0:51 / /proc rw - proc proc rw");
        assert_eq!(upper_directory(&mounts), Some(&*format!("/var/lib/docker/overlay2/{ID}/diff")));
        assert_eq!(upper_directory("1 0 8:1 / / rw - ext4 /dev/sda1 rw"), None);
        assert_eq!(upper_directory("1 0 0:50 / / rw - fuse.fuse-overlayfs fuse-overlayfs rw"), None);
        let long = format!("1 0 0:50 / / rw - overlay overlay rw,upperdir=/{}/{ID}/fs", "x".repeat(200));
        assert!(upper_directory(&long).is_some_and(|upper| upper.len() == 128 && upper.ends_with(&format!("{ID}/fs"))));
    }
}

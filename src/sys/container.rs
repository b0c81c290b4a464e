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

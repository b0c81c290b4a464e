#!/bin/sh
# Makes a root of a cached one, and runs the systemd in it as process 1. The namespaces are this process's own (see
# unshare(1)), so everything that is mounted here goes with it.
#
#   boot.sh CGROUP ROOT SHARED     ROOT is not written to; SHARED has units/, bin/ and scratch/
set -eu
cgroup=$1 root=$2 shared=$3

if [ "${4-}" != in-cgroup ]; then
    # 0 is whoever writes it. The namespace begins where this process then is.
    echo 0 >"$cgroup/cgroup.procs"
    exec unshare --cgroup sh "$0" "$cgroup" "$root" "$shared" in-cgroup
fi

mount --make-rprivate /
mount -t tmpfs tmpfs "$shared/scratch"
cd "$shared/scratch"
mkdir upper work root
mount -t overlay -o "lowerdir=$root,upperdir=$PWD/upper,workdir=$PWD/work" overlay root
cd root
mkdir -p srv/bin old
mount --bind "$shared/bin" srv/bin
mount --bind "$shared/units" etc/systemd/system
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs -o mode=0755 tmpfs dev
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm
mount -t devpts devpts dev/pts
mount -t tmpfs tmpfs dev/shm

pivot_root . old
exec chroot . sh -c 'umount -l /old && exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /sbin/init --unit=basic.target'

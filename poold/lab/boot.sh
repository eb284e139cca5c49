#!/bin/bash
# Starts one lab host: systemd as PID 1 in namespaces of its own, on an overlay of the base system.
#   boot.sh enter CGROUP BASE FOLDER NAME   outside: joins the host's cgroup, makes the namespaces
#   boot.sh boot BASE FOLDER NAME           inside: says its process id (as the machine counts) on
#                                           standard output, waits for a line on standard input
#                                           (the link is there), mounts, becomes systemd
# All mounts are made in the host's own mount namespace: they go when its last process goes.
set -eu

if [ "$1" = enter ]; then
  echo $$ > "$2/cgroup.procs"
  shift 2
  # The base is in use as long as the parent of the host's first process has it locked.
  exec 9< "$1"
  flock --shared 9
  exec unshare --mount --pid --net --uts --ipc --cgroup --fork --kill-child --propagation private \
    bash "$0" boot "$@"
fi

exec 9<&-
base=$2 folder=$3 name=$4
read -r pid _ < /proc/self/stat   # this /proc is still the machine's, so the number is too
echo "$pid"
read -r _                         # end of file here: whoever starts us is gone, so are we
exec < /dev/null >> "$folder/console.log" 2>&1

hostname "$name"
mount -t overlay poold-lab -o "lowerdir=$base,upperdir=$folder/upper,workdir=$folder/work" "$folder/root"
cd "$folder/root"

# Real disk where overlays will be made on top: an overlay on an overlay is refused.
mount --bind "$folder/disk/containers" var/lib/containers
mount --bind "$folder/disk/poold" var/lib/poold
mount --bind "$folder/disk/tmp" var/tmp

mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp

# A machine of its own has a boot id of its own.
cat /proc/sys/kernel/random/uuid > run/boot-id
mount --bind run/boot-id proc/sys/kernel/random/boot_id
# The switch that would stop the real machine stays out of reach.
[ ! -e proc/sysrq-trigger ] || mount --bind /dev/null proc/sysrq-trigger

mount -t tmpfs -o mode=755 tmpfs dev
while read -r node major minor; do
  mknod -m 666 "dev/$node" c "$major" "$minor"
done << 'EOF'
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
fuse 10 229
EOF
mkdir dev/pts dev/shm dev/net
mknod -m 666 dev/net/tun c 10 200
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
touch dev/console

pivot_root . mnt
cd /
umount -l /mnt
exec env -i container=poold-lab PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /sbin/init

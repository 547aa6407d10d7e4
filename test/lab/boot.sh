# Makes a namespace bundle into a host. Runs as PID 1 of new network, mount,
# PID, UTS and IPC namespaces; file descriptor 3 takes "ready".
#
#   LAB_DISK    the host's directory, on a real file system
#   LAB_LOWER   the read-only Debian root below the overlay
#   LAB_NAME    the host name
#   LAB_CGROUP  the host's group, relative to every cgroup hierarchy
#   LAB_BINDS   lines "FILE PATH-IN-HOST ro|rw": what is put over the root's own
set -eu
cg=/sys/fs/cgroup

if [ "$1" = join ]; then
	# The new cgroup namespace is rooted where its first process is.
	if [ -e $cg/cgroup.controllers ]; then
		echo 0 >"$cg/$LAB_CGROUP/cgroup.procs"
	else
		for h in $cg/*/cgroup.procs; do
			[ -L "${h%/*}" ] || echo 0 >"${h%/*}/$LAB_CGROUP/cgroup.procs"
		done
	fi
	exec unshare --cgroup "$BASH" "$0" mount
fi

mount --make-rprivate /
root=$LAB_DISK/root
mount -t overlay -o "lowerdir=$LAB_LOWER,upperdir=$LAB_DISK/upper,workdir=$LAB_DISK/work" "lab-$LAB_NAME" "$root"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount -t sysfs -o nosuid,nodev,noexec sysfs "$root/sys"
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs "$root/run"
mkdir -m 1777 "$root/run/lock"
mkdir "$root/run/weft-lab"

# The graph of an engine cannot lie on an overlay.
for d in docker containerd; do
	mkdir -p "$root/var/lib/$d"
	mount --bind "$LAB_DISK/$d" "$root/var/lib/$d"
done
while read -r file path mode; do
	[ -n "$file" ] || continue
	if [ -d "$file" ]; then
		mkdir -p "$root$path"
	elif ! [ -e "$root$path" ]; then
		: >"$root$path"
	fi
	mount --bind "$file" "$root$path"
	mount -o "remount,bind,$mode" "$root$path"
done <<<"$LAB_BINDS"

mount -t tmpfs -o nosuid,mode=755 tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/mqueue" "$root/dev/net"
while read -r node major minor; do
	mknod -m 666 "$root/dev/$node" c "$major" "$minor"
done <<-NODES
	null 1 3
	zero 1 5
	full 1 7
	random 1 8
	urandom 1 9
	kmsg 1 11
	tty 5 0
	net/tun 10 200
	fuse 10 229
NODES
mount -t devpts -o newinstance,gid=5,mode=620,ptmxmode=666 devpts "$root/dev/pts"
mount -t tmpfs -o nosuid,nodev tmpfs "$root/dev/shm"
mount -t mqueue mqueue "$root/dev/mqueue"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for n in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${n%:*}" "$root/dev/${n#*:}"; done

if [ -e $cg/cgroup.controllers ]; then
	mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root$cg"
	mkdir -p "$root$cg/init"
	echo 0 >"$root$cg/init/cgroup.procs"
	for c in $(<"$root$cg/cgroup.controllers"); do
		echo "+$c" >"$root$cg/cgroup.subtree_control" || :
	done
else
	mount -t tmpfs -o nosuid,nodev,noexec,mode=755 tmpfs "$root$cg"
	for d in $cg/*; do
		c=${d##*/}
		[ "$c" = unified ] && continue # crun takes no mixture of versions
		[ -L "$d" ] && { ln -s "$(readlink "$d")" "$root$d"; continue; }
		mkdir "$root$d"
		case $c in
		systemd) mount -t cgroup -o nosuid,nodev,noexec,none,name=systemd cgroup "$root$d" ;;
		*) mount -t cgroup -o "nosuid,nodev,noexec,$c" cgroup "$root$d" ;;
		esac
	done
fi

# A new network namespace copies some values of the machine.
sys=$root/proc/sys
echo "$LAB_NAME" >"$sys/kernel/hostname"
echo 0 >"$sys/net/ipv4/ip_forward"
for i in all default; do
	echo 0 >"$sys/net/ipv4/conf/$i/rp_filter"
	echo 0 >"$sys/net/ipv6/conf/$i/forwarding"
	echo 0 >"$sys/net/ipv6/conf/$i/accept_dad"
	echo 0 >"$sys/net/ipv6/conf/$i/disable_ipv6"
done

# chroot is not enough: docker exec would leave it.
cd "$root"
pivot_root . mnt
umount -l /mnt
# As systemd does; else mounts made later do not reach plugins.
mount --make-rshared /

mkfifo /run/weft-lab/init
echo ready >&3
exec 3>&-
# bash reaps orphans whenever a child ends; a read from this pipe never ends.
exec -c -a init /bin/bash -c 'exec 9<>/run/weft-lab/init; while :; do read -r -u 9 _ || :; done'

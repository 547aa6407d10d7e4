#!/bin/sh
# rootfs.sh ARCH BINARY DESTINATION
# Fills DESTINATION with the plugin's root file system: the weft binary and the
# firewall programs of Debian (nft, iptables of both flavours) with their
# libraries. It needs root's apt-get and dpkg-deb, nothing else, and leaves the
# machine's own package state alone.
set -eu

arch=$1 binary=$2 dest=$3
suite=bookworm
mirror=${WEFT_MIRROR:-http://deb.debian.org/debian}
packages="nftables iptables libnftables1 libnftnl11 libmnl0 libxtables12 libip4tc2 libip6tc2
 libnfnetlink0 libnetfilter-conntrack3 libjansson4 libgmp10 libedit2 libbsd0 libmd0 libtinfo6
 libc6 netbase"

# The download is kept: a second build needs no network.
cache=${WEFT_CACHE:-/var/cache/weft-build}/$suite-$arch
debs=$cache/debs
if ! [ -e "$cache/complete" ]; then
	rm -rf "$debs" # of an interrupted download
	mkdir -p "$cache/state/lists/partial" "$cache/archives/partial" "$cache/etc" "$debs"
	: >"$cache/state/status"
	keyring=/usr/share/keyrings/debian-archive-keyring.gpg
	echo "deb [signed-by=$keyring] $mirror $suite main" >"$cache/etc/sources.list"
	set -- -o APT::Architecture="$arch" -o APT::Architectures="$arch" -o Dir::State="$cache/state" \
		-o Dir::State::status="$cache/state/status" -o Dir::Cache="$cache" -o Dir::Etc::sourcelist="$cache/etc/sources.list" \
		-o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null -o APT::Sandbox::User=root -o APT::Install-Recommends=false
	apt-get "$@" update -qq
	# shellcheck disable=SC2086 # a list of words
	(cd "$debs" && apt-get "$@" download -qq $packages)
	touch "$cache/complete"
fi

rm -rf "$dest"
mkdir -p "$dest"
for deb in "$debs"/*.deb; do
	dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$dest" --exclude=./usr/share --exclude=./usr/lib/systemd --exclude=./lib/systemd
done

# Debian picks the iptables flavour by update-alternatives; weft names the
# flavour itself, so the programs of both are enough.
rm -rf "$dest/etc/init.d" "$dest/etc/nftables.conf" "$dest/etc/ld.so.conf.d" "$dest/usr/share" \
	"$dest/usr/lib/"*/gconv "$dest/usr/bin" "$dest/sbin/ldconfig"
mkdir -p "$dest/usr/bin" "$dest/var/lib" "$dest/run/docker/plugins" "$dest/tmp" "$dest/proc" "$dest/sys" "$dest/dev" "$dest/etc"
ln -s ../run "$dest/var/run"
install -m 0755 "$binary" "$dest/usr/bin/weft"
# Same input, same output.
find "$dest" -newermt @1 -exec touch -h -d @0 {} +

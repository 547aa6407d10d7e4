#!/bin/bash
# Takes away what up.sh made on this machine.
set -uo pipefail
cd "$(dirname "$0")/.."
mark=/var/lib/weft-demo
failed=0
try() { "$@" >/dev/null || { echo "make down: failed: $*" >&2; failed=1; }; }
have() { "$@" >/dev/null 2>&1; }

[ "$(id -u)" = 0 ] || { echo "make down: run it as root" >&2; exit 1; }
if have docker version; then
	for c in weft-demo-web weft-demo-client; do
		have docker inspect $c && try docker rm -f $c
	done
	have docker network inspect weft-demo && try docker network rm weft-demo
	have docker image inspect weft-demo && try docker rmi weft-demo
	others=$(docker network ls -q | xargs -r docker network inspect -f '{{.Driver}} {{.IPAM.Driver}} {{.Name}}' | grep weft:latest | sed 's/.* //')
	if [ -n "$others" ]; then
		echo "make down: the plugin stays, other networks use it: $others" >&2
		echo "make down: remove them with docker network rm, then say make down again" >&2
		exit 1
	fi
	if have docker plugin inspect weft:latest; then
		have docker plugin disable -f weft:latest
		try docker plugin rm -f weft:latest
	fi
elif have command -v dockerd && [ -d /var/lib/weft ]; then
	echo "make down: the engine does not answer, so nobody can say whether networks still use weft; start it first" >&2
	exit 1
fi
rm -rf /usr/local/bin/weft /var/lib/weft
if [ -s $mark/dockerd.pid ]; then
	pid=$(cat $mark/dockerd.pid)
	if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ]; then
		try kill "$pid"
		tail --pid="$pid" -f /dev/null
	fi
fi
if [ -s $mark/packages ]; then
	# shellcheck disable=SC2046 # a list of words
	DEBIAN_FRONTEND=noninteractive try apt-get remove -y -qq $(cat $mark/packages)
fi
rm -rf $mark build/demo
echo "weft is gone from this machine; images and volumes of the engine stay in /var/lib/docker"
exit $failed

#!/bin/bash
# Tries weft on this machine. Run it as often as you like; down.sh undoes it.
set -euo pipefail
cd "$(dirname "$0")/.."
port=${WEFT_DEMO_PORT:-18080}
mark=/var/lib/weft-demo # notes what down.sh must take away
say() { printf '\n== %s\n' "$*"; }

[ "$(id -u)" = 0 ] || { echo "make up: run it as root" >&2; exit 1; }
mkdir -p $mark

engine_answers() { docker version >/dev/null 2>&1; }

start_engine() {
	if [ -d /run/systemd/system ]; then
		systemctl start docker
	else
		nohup dockerd >/var/log/dockerd.log 2>&1 &
		echo $! >$mark/dockerd.pid
	fi
	for _ in $(seq 150); do
		engine_answers && return
		read -rt 0.2 <> <(:) || :
	done
	echo "make up: the engine does not answer after 30 s; see /var/log/dockerd.log or journalctl -u docker" >&2
	exit 1
}

if ! engine_answers; then
	if ! command -v dockerd >/dev/null; then
		say "installing Debian's docker.io"
		apt-get update -qq
		dpkg-query -W -f='${Package}\n' | sort >$mark/before
		packages="docker.io iptables"
		apt-cache show docker-cli >/dev/null 2>&1 && packages="$packages docker-cli"
		# shellcheck disable=SC2086 # a list of words
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
		# down.sh removes only what was not there before.
		dpkg-query -W -f='${Package}\n' | sort | comm -13 $mark/before - >$mark/packages
	fi
	engine_answers || { say "starting the engine"; start_engine; }
fi

say "building the plugin"
make -s plugin

say "installing the plugin as weft:latest"
settings=()
if docker plugin inspect weft:latest >/dev/null 2>&1; then
	mapfile -t settings < <(docker plugin inspect -f '{{range .Settings.Env}}{{println .}}{{end}}' weft:latest | grep =)
	# The offline upgrade: networks, endpoints and ports stay as they are.
	docker plugin disable -f weft:latest >/dev/null 2>&1 || :
	docker plugin rm -f weft:latest >/dev/null
fi
docker plugin create weft:latest build/plugin >/dev/null
[ ${#settings[@]} = 0 ] || docker plugin set weft:latest "${settings[@]}"
docker plugin enable weft:latest >/dev/null
install -m 0755 "build/weft-$(go env GOARCH)" /usr/local/bin/weft

say "making a network and two containers"
docker rm -f weft-demo-web weft-demo-client >/dev/null 2>&1 || :
docker network rm weft-demo >/dev/null 2>&1 || :
mkdir -p build/demo
CGO_ENABLED=0 go build -trimpath -o build/demo/demo ./packaging/demo
tar -C build/demo -c demo | docker import -c 'ENTRYPOINT ["/demo"]' - weft-demo >/dev/null
# It stays from the last time when somebody else's container is on it.
docker network inspect weft-demo >/dev/null 2>&1 || docker network create -d weft:latest weft-demo >/dev/null
docker run -d --name weft-demo-web --network weft-demo -p "$port:8080" weft-demo serve :8080 >/dev/null
docker run -d --name weft-demo-client --network weft-demo weft-demo wait >/dev/null

try() { # try COMMAND…: up to 10 s, for the server to listen
	for _ in $(seq 50); do
		"$@" 2>/dev/null && return
		read -rt 0.2 <> <(:) || :
	done
	"$@"
}

say "one container reaches the other by name"
try docker exec weft-demo-client /demo get http://weft-demo-web:8080/
say "the published port answers"
try build/demo/demo get "http://127.0.0.1:$port/"
docker ps --filter name=weft-demo --format 'table {{.Names}}\t{{.Status}}\t{{.Ports}}'

cat <<TEXT

weft works. Next, for instance:
  docker network create -d weft:latest --subnet 10.20.0.0/16 --gateway 10.20.0.1 mynet
  docker run -d --name redis --network mynet redis
  weft status ; weft networks ; weft endpoints
  make down        # takes the demonstration and the plugin away; remove your own networks first
TEXT

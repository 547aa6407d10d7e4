#!/bin/bash
# test/run.sh all|fast|vm: what `make test`, `make test-fast` and `make test-vm` run.
# It installs what the tests need, prints one line for each step, and the full
# output of a step that fails. Logs stay in build/test/.
set -uo pipefail
cd "$(dirname "$0")/.."
mode=${1:-all}
logs=build/test
mkdir -p $logs
rm -f $logs/*.log
[ "$(id -u)" = 0 ] || { echo "make test: run it as root: the tests make network namespaces" >&2; exit 1; }

# As `make build` compiles, whatever the folder: what is compiled once serves all steps but
# those with the race detector.
export GOFLAGS=-trimpath CGO_ENABLED=0

failed=()
started=$SECONDS

# told LOG: what failed and what was said of it, without what daemons wrote. Last comes
# what matters most: some see only the end.
told() {
	grep -E -A25 -e '^panic|^fatal error|DATA RACE|^[a-z][^ ]*\.go:[0-9]+|^FAIL|^vet: |^make.*\*\*\*|rror:' "$1" | grep -vE 'level=|"level"' | cut -c1-500 | head -100
	awk '/^ *(--- FAIL|FAIL)/ { print; more = 0; next }
		/^ +[a-z0-9_]+\.go:[0-9]+: / { more = /log of the plugin/ ? 0 : 9 }
		/level=|"level"/ { next }
		more-- > 0' "$1" | cut -c1-500 | tail -120
}

step() { # step NAME COMMAND…
	local name=$1 at=$SECONDS
	shift
	if "$@" >"$logs/$name.log" 2>&1; then
		printf 'ok    %-12s %4ds\n' "$name" $((SECONDS - at))
	else
		printf 'FAIL  %-12s %4ds  (%s)\n' "$name" $((SECONDS - at)) "$logs/$name.log"
		told "$logs/$name.log"
		failed+=("$name")
	fi
}

tools() {
	local missing=()
	for pair in nft:nftables iptables-legacy:iptables ip:iproute2 debootstrap:debootstrap make:make gcc:gcc musl-gcc:musl-tools firewalld:firewalld dbus-daemon:dbus qemu-system-x86_64:qemu-system-x86 mke2fs:e2fsprogs; do
		command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
	done
	[ -e /usr/include/stdlib.h ] || missing+=(libc6-dev) # the race detector needs cgo
	[ ${#missing[@]} = 0 ] && return
	# No service may start here: firewalld would close this machine's ports.
	local policy=/usr/sbin/policy-rc.d made=
	[ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=$policy; }
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
	local result=$?
	[ -z "$made" ] || rm -f "$made"
	if [ -d /run/systemd/system ] && [[ " ${missing[*]} " = *" firewalld "* ]]; then systemctl disable -q firewalld; fi
	return $result
}

lint() {
	go build -modfile=tools/go.mod -o build/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint &&
		build/golangci-lint run ./...
}

packages() { # the slowest first
	go list ./internal/firewall ./ipam ./internal/store ./internal/names ./... |
		grep -v -e /test/e2e -e /test/bench -e /test/lab
}

unit() { # unit [FLAGS]: everything that needs no engine
	# shellcheck disable=SC2046 # a list of words
	go test -count=1 -timeout 8m -vet=off "$@" $(packages) # the linter vets
}

raced() { # what looks at the clock does not run beside the compiler
	local -x CGO_ENABLED=1 # the race detector needs it
	# shellcheck disable=SC2046 # a list of words
	go list -race -test -export $(packages) >/dev/null && unit -race "$@"
}

fuzz() { # two targets at a time, one worker each
	local p
	for p in ./plugin ./driver ./internal/ownership ./internal/names ./internal/kernel; do
		go test -c -fuzz=. -o /dev/null $p || return # -fuzz compiles in a way of its own: once
	done
	printf '%s\n' "FuzzDecodeNetwork ./plugin 4s" "FuzzDecodeIPAM ./plugin 4s" "FuzzHandler ./plugin 4s" "FuzzOptions ./driver 4s" \
		"FuzzDecode ./internal/ownership 4s" "FuzzDecodeAsk ./internal/ownership 4s" \
		"FuzzAnswer ./internal/names 4s" "FuzzClaims ./internal/kernel 4s" |
		xargs -P2 -L1 sh -c 'go test -run="^\$" -fuzz="^$0\$" -fuzztime="$2" -parallel=1 "$1"'
}


declare -A begun
begin() { # begin NAME COMMAND…: beside what follows, until `step NAME ended NAME`
	local name=$1
	shift
	[ "$1" = beside ] || set -m # a group of its own, to be ended as one
	"$@" >"$logs/$name.out" 2>&1 &
	set +m
	begun[$name]=$!
}
trap 'for p in "${begun[@]}"; do kill -- "-$p" 2>/dev/null; done' EXIT

# The emulated machine is one thread: alone it would leave a processor idle.
beside() { # beside COMMAND…: in a session, so with a part of the processors, of its own
	exec setsid "$@"
}

ended() {
	local result
	wait "${begun[$1]}"
	result=$?
	unset "begun[$1]"
	cat "$logs/$1.out"
	return $result
}

lab() {
	go run ./test/vm/weftvm fetch && go run ./test/lab/weftlab roots && go test -count=1 -timeout 6m ./test/lab/...
}

arm64() { env GOARCH=arm64 CGO_ENABLED=0 go build -o build/weft-arm64 ./cmd/weft; }

vm=(go run ./test/vm/weftvm run)

# The story of lost addresses waits for minutes and does little else, so it goes on
# beside the others.
leaks() { go test -count=1 -timeout 20m -run '^TestClusterLeaks$' ./test/e2e; }

e2e() { go test -count=1 -timeout 20m -parallel 5 -skip '^TestClusterLeaks$' ./test/e2e; }

# What takes seconds each: clusters of many hosts, firewalld, waits of real clocks.
slow='^Test(Model.*|Cluster.*|.*Firewalld.*|Combinations|SourceAddressAndTrust|Watch|ShortWay|.*Redirect.*|.*AmongMachines|FailedRound|BusyHost|Hung|.*Conflicts|Outage.*|Conformance|Flood|Idle|Latency)$'

step tools tools
if [ "$mode" = fast ]; then
	step lint lint
	step unit unit -p 4 -skip "$slow"
elif [ "$mode" = vm ]; then
	step plugin make -s plugin
	step vm "${vm[@]}"
	grep -E '^(ok|FAIL)' "$logs/vm.log"
else
	begin lab lab # Debian roots are made while the compiler works, and hosts wait a lot
	begin model go test -count=1 -timeout 20m ./ipam -run '^TestModel'
	step plugin make -s plugin
	begin vm beside "${vm[@]}"
	step lint lint
	step lab ended lab
	step model ended model
	step unit raced -p 2 -skip '^TestModel'
	step fuzz fuzz
	step arm64 arm64
	step vm ended vm # before the many daemons of what follows
	begin leaks leaks
	step e2e e2e
	step leaks ended leaks
fi

echo
echo "$mode: $((SECONDS - started)) s"
total=$(cat $logs/*.log 2>/dev/null | grep -cE '^(ok|FAIL)[[:space:]]+github')
echo "$((total > ${#failed[@]} ? total - ${#failed[@]} : 0)) passed, ${#failed[@]} failed"
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]}"; exit 1; }

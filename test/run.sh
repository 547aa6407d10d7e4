#!/bin/bash
# test/run.sh all|fast: what `make test` and `make test-fast` run.
# It installs what the tests need, prints one line for each step, and the full
# output of a step that fails. Logs stay in build/test/.
set -uo pipefail
cd "$(dirname "$0")/.."
mode=${1:-all}
logs=build/test
mkdir -p $logs
rm -f $logs/*.log
[ "$(id -u)" = 0 ] || { echo "make test: run it as root: the tests make network namespaces" >&2; exit 1; }

failed=()
started=$SECONDS
step() { # step NAME COMMAND…
	local name=$1 at=$SECONDS
	shift
	if "$@" >"$logs/$name.log" 2>&1; then
		printf 'ok    %-12s %4ds\n' "$name" $((SECONDS - at))
	else
		printf 'FAIL  %-12s %4ds  (%s)\n' "$name" $((SECONDS - at)) "$logs/$name.log"
		grep -E -A25 -e '--- FAIL|^panic|DATA RACE|^[a-z][^ ]*\.go:[0-9]+|^FAIL|rror' "$logs/$name.log" | head -150
		failed+=("$name")
	fi
}

tools() {
	local missing=()
	for pair in nft:nftables iptables-legacy:iptables ip:iproute2 debootstrap:debootstrap make:make gcc:gcc firewalld:firewalld dbus-daemon:dbus; do
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

packages() { go list ./... | grep -v -e /test/e2e -e /test/bench -e /test/lab; }

unit() { # unit [FLAGS]: everything that needs no engine
	# shellcheck disable=SC2046 # a list of words
	go test -count=1 -timeout 8m "$@" $(packages)
}

fuzz() { # two targets at a time, one worker each
	go test -run='^$' ./plugin ./driver ./internal/ownership || return # compiled once
	printf '%s\n' "FuzzDecodeNetwork ./plugin 10s" "FuzzDecodeIPAM ./plugin 10s" "FuzzHandler ./plugin 10s" "FuzzOptions ./driver 10s" \
		"FuzzDecode ./internal/ownership 5s" "FuzzDecodeAsk ./internal/ownership 5s" |
		xargs -P2 -L1 sh -c 'go test -run="^\$" -fuzz="^$0\$" -fuzztime="$2" -parallel=1 "$1"'
}

roots() { go run ./test/lab/weftlab roots; }

made() { wait "$making" || { cat "$logs/roots-make.log"; return 1; }; }

built() { wait "$building" || { cat "$logs/arm64-make.log"; return 1; }; }

# The story of lost addresses waits for minutes and does little else, so it goes on
# beside the others.
leaks() { go test -count=1 -timeout 20m -run '^TestClusterLeaks$' ./test/e2e; }

leaked() { # the log of the step is that of the story
	local result
	wait "$leaking"
	result=$?
	cat "$logs/leaks.out"
	return $result
}

e2e() { go test -count=1 -timeout 20m -parallel 7 -skip '^TestClusterLeaks$' ./test/e2e; }

step tools tools
if [ "$mode" = fast ]; then
	step lint lint
	step unit unit
else
	# Debian roots are made while the compiler works; fuzzing needs no kernel.
	roots >"$logs/roots-make.log" 2>&1 &
	making=$!
	step plugin make -s plugin
	step lint lint
	step unit unit -race -skip '^TestModel' # the model is one goroutine
	step model go test -count=1 -timeout 8m ./ipam -run '^TestModel'
	step fuzz fuzz
	step roots made
	leaks >"$logs/leaks.out" 2>&1 &
	leaking=$!
	# Test hosts leave the processors to the compiler now and then.
	env GOARCH=arm64 CGO_ENABLED=0 go build -o build/weft-arm64 ./cmd/weft >"$logs/arm64-make.log" 2>&1 &
	building=$!
	step lab go test -count=1 -timeout 6m ./test/lab/...
	step arm64 built
	step e2e e2e
	step leaks leaked
fi

echo
echo "$mode: $((SECONDS - started)) s"
total=$(cat $logs/*.log 2>/dev/null | grep -cE '^(ok|FAIL)[[:space:]]+github')
echo "$((total > ${#failed[@]} ? total - ${#failed[@]} : 0)) passed, ${#failed[@]} failed"
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]}"; exit 1; }

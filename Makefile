# make help lists the targets.
SHELL := /bin/bash
ARCH ?= $(shell go env GOARCH)
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)
LDFLAGS := -s -w -X main.version=$(VERSION)
GOTOOL := go tool -modfile=tools/go.mod

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

.PHONY: build
build: ## the binary, for this machine
	CGO_ENABLED=0 GOARCH=$(ARCH) go build -trimpath -ldflags "$(LDFLAGS)" -o build/weft-$(ARCH) ./cmd/weft

.PHONY: plugin
plugin: build ## build/plugin: config.json and rootfs for `docker plugin create weft:latest build/plugin`
	packaging/rootfs.sh $(ARCH) build/weft-$(ARCH) build/plugin/rootfs
	cp config.json build/plugin/config.json

.PHONY: plugin-arm64
plugin-arm64: ## the same for arm64, cross-compiled
	$(MAKE) build ARCH=arm64
	packaging/rootfs.sh arm64 build/weft-arm64 build/plugin-arm64/rootfs
	cp config.json build/plugin-arm64/config.json

.PHONY: man
man: build ## manual pages and shell completion below build/
	build/weft-$(ARCH) man build/man
	mkdir -p build/completion
	for s in bash zsh fish; do build/weft-$(ARCH) completion $$s > build/completion/weft.$$s; done

.PHONY: up
up: ## try weft on this machine: plugin, network, two containers
	packaging/up.sh

.PHONY: down
down: ## take away what `make up` made
	packaging/down.sh

.PHONY: lab
lab: ## three test hosts with real engines that stay until make lab-clean
	go run ./test/lab/weftlab up

.PHONY: lab-clean
lab-clean: ## remove all test hosts
	go run ./test/lab/weftlab clean

.PHONY: test
test: ## linter, unit, kernel, fuzz and end-to-end tests
	test/run.sh all

.PHONY: test-fast
test-fast: ## linter and the quick ones of the tests that need no engine, in under a minute
	test/run.sh fast

.PHONY: test-vm
test-vm: ## the tests that need Debian's stock kernel (VLANs, ipvlan), in an emulated machine
	test/run.sh vm

.PHONY: bench-run
bench-run: plugin ## network share of `docker run` against the built-in bridge
	go test -tags bench ./test/bench -run TestNetworkShare -count=1 -v -timeout 40m

.PHONY: bench-ipam
bench-ipam: build ## latency, rate, memory and start of the IPAM driver, on a quiet machine
	go test -tags bench ./test/bench/ipam -count=1 -v -timeout 20m

.PHONY: bench-overlay
bench-overlay: plugin ## overlay networks against those of a Swarm, on a quiet machine
	go test -tags bench ./test/bench/overlay/... -p 1 -count=1 -v -timeout 60m

.PHONY: bench-names
bench-names: plugin ## how soon names are known; names inside containers against the engine alone, memory and idle time, on a quiet machine
	go test -tags bench ./test/bench/names -count=1 -v -timeout 40m
	go test -tags bench ./internal/names -run '^(TestLatency|TestIdle)$$' -count=1 -v -timeout 10m
	go test -tags bench ./internal/directory -run '^TestIdle$$' -count=1 -v -timeout 10m

.PHONY: bench-macvlan
bench-macvlan: ## the kernel's work of attaching a macvlan container, in it against made on the host and moved
	nice -n -20 go test -tags bench ./test/bench/macvlan -count=1 -v -timeout 10m

.PHONY: lint
lint: ## the linter
	$(GOTOOL) golangci-lint run ./...

.PHONY: clean
clean: ## remove build/
	rm -rf build

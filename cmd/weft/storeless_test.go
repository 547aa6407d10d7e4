package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/config"
	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/internal/ownership"
)

// serveEngine plays an engine that lists networks, until the test ends.
func serveEngine(t *testing.T, dir, networks string) {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "unix", filepath.Join(dir, "engine"))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/networks", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, networks) })
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		if err := errors.Join(srv.Shutdown(context.Background()), <-done); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// TestStartWithoutStore: of a cluster whose store has not answered since the start, the commands
// show what the journal has, and deny nothing.
func TestStartWithoutStore(t *testing.T) {
	dir := t.TempDir()
	id := func(letter string) string { return strings.Repeat(letter, 64) }
	serveEngine(t, dir, `[{"Id":"`+id("a")+`","Name":"ov"}]`)
	var cfg config.Config
	cfg.Store.Endpoints = "etcd://127.0.0.1:9" // nobody is there
	h := openHouse(t, cfg, dir,
		journal.Put("networks", id("a"), driver.Network{ID: id("a"), Mode: "overlay", Shared: &driver.Shared{UUID: "0a0b", VNI: 4097}, IPv4: []driver.Subnet{{Pool: netip.MustParsePrefix("10.1.0.0/24")}}}),
		journal.Put("networks", id("b"), driver.Network{ID: id("b"), Mode: "bridge", IPv4: []driver.Subnet{{Pool: netip.MustParsePrefix("10.2.0.0/24")}}}),
		journal.Put("host", "cluster", cluster.Identity{ID: "aaaa", UUID: "cccc", Epoch: 1, Known: []ownership.Host{"bbbb"}, Names: map[ownership.Host]string{"bbbb": "far"}}))
	socket := serveAdmin(t, h.source())
	weft := func(args ...string) (string, error) { return run(t, append(args, "--socket", socket)...) }
	out, err := weft("network", "ls")
	if err != nil || !hasLine(out, "ov", "overlay", "4097", "10.1.0.0/24", h.cluster.Name("aaaa"), "present") || strings.Contains(out, "10.2.0.0") {
		t.Errorf("weft network ls: %v:\n%s", err, out)
	}
	if !hasLine(out, "the store has not answered since weft started", "see `weft store status`") {
		t.Errorf("weft network ls does not say that there may be others:\n%s", out)
	}
	if out, err := weft("network", "rm", "ov"); err == nil || !strings.Contains(err.Error(), `network "ov" cannot be looked up: the store has not answered since weft started: see `+"`weft store status`") {
		t.Errorf("weft network rm: %v\n%s", err, out)
	}
	out, err = weft("hosts")
	if err != nil || !hasLine(out, h.cluster.Name("aaaa"), "this host", "aaaa") || !hasLine(out, "far", "unknown: the store does not answer", "bbbb") {
		t.Errorf("weft hosts: %v:\n%s", err, out)
	}
}

package main

import (
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/internal/cluster"
)

// serveAdmin answers the operator's commands until the test ends, and returns its socket.
func serveAdmin(t *testing.T, src admin.Source) string {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	l, err := admin.Listen(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	go func() { done <- admin.Serve(ctx, l, src, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, admin.SocketName)
}

// TestHosts: both names of the command print the same hosts.
func TestHosts(t *testing.T) {
	list := []cluster.HostView{
		{ID: "1", Name: "h1", Address: netip.MustParseAddr("192.0.2.1"), Me: true, Connected: true},
		{ID: "2", Name: "h2"},
		{ID: "3", Name: "h3", Address: netip.MustParseAddr("127.0.0.1"), Connected: true},
	}
	clashes := cluster.Clashes(list, map[netip.Addr]string{netip.MustParseAddr("127.0.0.1"): "lo", netip.MustParseAddr("192.0.2.1"): ""})
	socket := serveAdmin(t, admin.Source{
		Hosts: func(context.Context) ([]admin.Host, error) { return withClashes(list, clashes), nil },
		Status: func(context.Context) (admin.Status, error) {
			return admin.Status{Clashes: []string{clashes[0].String()}}, nil
		},
	})
	short, err := run(t, "hosts", "--socket", socket)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]string{{"h1", "192.0.2.1", "this host"}, {"h2", "-", "not connected"}, {"h3", "127.0.0.1", "connected", "device lo", "WEFT_ADVERTISE"}} {
		if !hasLine(short, want...) {
			t.Errorf("no line with %q:\n%s", want, short)
		}
	}
	if long, err := run(t, "host", "ls", "--socket", socket); err != nil || long != short {
		t.Errorf("weft host ls prints something else (%v):\n%s", err, long)
	}
	if strings.Count(short, "WEFT_ADVERTISE") != 1 {
		t.Errorf("hosts are blamed that have an address of their own:\n%s", short)
	}
	if out, err := run(t, "status", "--socket", socket); err != nil || !hasLine(out, "CLASH:", "h3", "device lo") {
		t.Errorf("weft status (%v):\n%s", err, out)
	}
}

// TestClashesAreToldOnce: and again when they come back.
func TestClashesAreToldOnce(t *testing.T) {
	var out strings.Builder
	log := slog.New(slog.NewTextHandler(&out, nil))
	hosts := []cluster.HostView{{ID: "1", Name: "h1", Address: netip.MustParseAddr("192.0.2.1")}, {ID: "2", Name: "h2", Address: netip.MustParseAddr("192.0.2.1")}}
	bad := cluster.Clashes(hosts, nil)
	var told map[string]bool
	for i, c := range []struct {
		now         []cluster.Clash
		warns, ends int
	}{{nil, 0, 0}, {bad, 1, 0}, {bad, 1, 0}, {nil, 1, 1}, {nil, 1, 1}, {bad, 2, 1}} {
		told = tellClashes(log, told, c.now)
		warns, ends := strings.Count(out.String(), "level=WARN"), strings.Count(out.String(), "level=INFO")
		if warns != c.warns || ends != c.ends {
			t.Fatalf("step %d: %d warnings and %d ends:\n%s", i, warns, ends, out.String())
		}
	}
}

func hasLine(text string, words ...string) bool {
	for line := range strings.Lines(text) {
		found := true
		for _, w := range words {
			found = found && strings.Contains(line, w)
		}
		if found {
			return true
		}
	}
	return false
}

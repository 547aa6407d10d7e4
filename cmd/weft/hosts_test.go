package main

import (
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/internal/cluster"
)

// serveAdmin answers the operator's commands until the test ends, and returns its socket.
func serveAdmin(t *testing.T, src admin.Source) string {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- admin.Serve(ctx, dir, src, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	socket := filepath.Join(dir, admin.SocketName)
	end := time.After(5 * time.Second)
	for {
		if _, err := admin.Dial(t.Context(), socket); err == nil {
			return socket
		}
		select {
		case <-end:
			t.Fatal("the socket does not answer")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// TestHosts: both names of the command print the same hosts.
func TestHosts(t *testing.T) {
	socket := serveAdmin(t, admin.Source{Hosts: func(context.Context) ([]cluster.HostView, error) {
		return []cluster.HostView{
			{ID: "1", Name: "h1", Address: netip.MustParseAddr("192.0.2.1"), Me: true, Connected: true},
			{ID: "2", Name: "h2"},
		}, nil
	}})
	short, err := run(t, "hosts", "--socket", socket)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]string{{"h1", "192.0.2.1", "this host"}, {"h2", "-", "not connected"}} {
		if !hasLine(short, want...) {
			t.Errorf("no line with %q:\n%s", want, short)
		}
	}
	if long, err := run(t, "host", "ls", "--socket", socket); err != nil || long != short {
		t.Errorf("weft host ls prints something else (%v):\n%s", err, long)
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

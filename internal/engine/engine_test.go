package engine_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/engine"
)

// daemon plays the Docker API.
type daemon struct {
	mu     sync.Mutex
	info   string
	events chan string
	srv    *http.Server
}

func (d *daemon) set(info string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.info = info
}

func start(t *testing.T, socket, info string) *daemon {
	t.Helper()
	d := &daemon{info: info, events: make(chan string)}
	mux := http.NewServeMux()
	mux.HandleFunc("/info", func(w http.ResponseWriter, _ *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		fmt.Fprint(w, d.info)
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		for {
			select {
			case e := <-d.events:
				fmt.Fprintln(w, e)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("/networks", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `[{"Id":"n1","IPAM":{"Config":[{"Subnet":"10.0.0.0/24"},{"Subnet":""}]}},{"Id":"n2","IPAM":{"Config":null}}]`)
	})
	mux.HandleFunc("/containers/json", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("all") != "1" {
			t.Error("stopped containers are left out")
		}
		fmt.Fprint(w, `[{"NetworkSettings":{"Networks":{"x":{"EndpointID":"e1","IPAddress":"10.0.0.2","GlobalIPv6Address":"fd00::2"},"y":{"EndpointID":""}}}}]`)
	})
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	d.srv = &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	go func() { _ = d.srv.Serve(l) }() // ends with Close
	t.Cleanup(func() { _ = d.srv.Close() })
	return d
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(5 * time.Second)
	for !ok() {
		select {
		case <-deadline:
			t.Fatal("waited in vain for: " + what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func info(version string, live bool) string {
	return fmt.Sprintf(`{"ServerVersion":%q,"LiveRestoreEnabled":%t}`, version, live)
}

// TestFollow: the answer follows reloads, restarts and the absence of the engine.
func TestFollow(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "docker.sock")
	e := engine.New(engine.Config{Socket: socket, Retry: 10 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	safe := func(want bool) func() bool {
		return func() bool { ok, why := e.DirectSafe(); return ok == want && (why == "") == want }
	}
	until(t, "unknown at first", safe(false))
	d := start(t, socket, info("28.5.2+dfsg4", false))
	until(t, "28 without live-restore", safe(true))
	d.set(info("28.5.2+dfsg4", true))
	d.events <- `{"Type":"daemon","Action":"reload"}`
	until(t, "live-restore after a reload", safe(false))
	d.set(info("29.7.0", true))
	d.events <- `{"Type":"daemon","Action":"reload"}`
	until(t, "29.7", safe(true))
	if err := d.srv.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, "unknown while the engine is away", safe(false))
	start(t, socket, info("30.0.1", false))
	until(t, "the engine is back", safe(true))
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestDirectSafe(t *testing.T) {
	for _, c := range []struct {
		version    string
		live, want bool
	}{
		{"20.10.24+dfsg1", false, false}, {"26.1.5", false, false}, {"27.5.1", false, false}, {"28.0.0", false, true}, {"28.5.2", true, false},
		{"29.0.0", true, false}, {"29.6.9", true, false}, {"29.7.0", true, true}, {"30.0.0-rc1", true, true}, {"dev", false, false}, {"", false, false},
	} {
		t.Run(fmt.Sprint(c.version, c.live), func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "s")
			start(t, socket, info(c.version, c.live))
			e := engine.New(engine.Config{Socket: socket, Retry: 10 * time.Millisecond})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- e.Run(ctx) }()
			until(t, "an answer", func() bool { _, ok := e.Info(); return ok })
			if ok, _ := e.DirectSafe(); ok != c.want {
				t.Errorf("safe %t", ok)
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestHeld(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	e := engine.New(engine.Config{Socket: socket})
	if _, err := e.Held(t.Context()); !errors.Is(err, engine.ErrUnknown) {
		t.Errorf("without an engine: %v", err)
	}
	start(t, socket, "{}")
	h, err := e.Held(t.Context())
	if err != nil || !h.Networks["n1"] || !h.Networks["n2"] || !h.Endpoints["e1"] || h.At.IsZero() ||
		!h.Subnets[netip.MustParsePrefix("10.0.0.0/24")] || !h.Addresses[netip.MustParseAddr("10.0.0.2")] || !h.Addresses[netip.MustParseAddr("fd00::2")] {
		t.Errorf("%+v, %v", h, err)
	}
}

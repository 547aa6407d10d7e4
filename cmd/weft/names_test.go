package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/config"
	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/directory/directorytest"
	"github.com/weft-net/weft/internal/engine"
	"github.com/weft-net/weft/internal/names"
	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// statusOfNames is what the status of a house prints about names.
func statusOfNames(h *house) string {
	var out bytes.Buffer
	_ = output(&out, false, h.namesStatus(), func(w io.Writer, s *admin.NamesStatus) { printNames(w, s) })
	return out.String()
}

// TestNamesStatus: without the Docker socket the names of this host's containers are not told
// to anybody, and without the store those of other hosts may have changed; both are said.
func TestNamesStatus(t *testing.T) {
	silent := func(string) *slog.Logger { return slog.New(slog.DiscardHandler) }
	s := store.NewFake().Peer()
	host := directorytest.New(t, directorytest.Config{Name: "h1", Store: s, Dir: t.TempDir()})
	socket := filepath.Join(t.TempDir(), "docker.sock")
	h := &house{cluster: host.Cluster, directory: host.Directory, flags: serveFlags{engine: socket}}
	h.engine = engine.New(engine.Config{Socket: socket})
	h.openNames(config.Config{Names: config.NamesOn}, silent)
	host.Start(h.engine.Run)
	host.Until("ready", host.Ready)
	out := statusOfNames(h)
	for _, words := range []string{"answered in 0 of 0 containers", "the names of this host's containers are not known to other hosts", "the engine does not answer at " + socket} {
		if !strings.Contains(out, words) {
			t.Errorf("it lacks %q:\n%s", words, out)
		}
	}
	if strings.Contains(out, "as of") || strings.Contains(out, "those of other hosts") {
		t.Errorf("the store is there:\n%s", out)
	}
	s.SetDown(true)
	host.Attend(directory.Network{UUID: "u1", Mode: "overlay", Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}})
	host.Until("it is said", func() bool {
		return strings.Contains(statusOfNames(h), "those of other hosts are as of "+time.Now().Format("2006"))
	})
	if out = statusOfNames(h); !strings.Contains(out, ": the store is down") {
		t.Error(out)
	}
	s.SetDown(false)
	host.Until("it is over", func() bool { return !strings.Contains(statusOfNames(h), "those of other hosts") })
}

// TestPrintNames: a place where nothing is answered is called by its container.
func TestPrintNames(t *testing.T) {
	for _, c := range []struct {
		status admin.NamesStatus
		want   string
	}{
		{admin.NamesStatus{On: true, Problems: map[string]string{"container web (a0a0a0a0a0a0)": "no port"}}, "not answered in container web (a0a0a0a0a0a0): no port"},
		{admin.NamesStatus{AtAddress: true, Problems: map[string]string{"192.0.2.1:53": "in use"}}, "not answered at 192.0.2.1:53: in use"},
		{admin.NamesStatus{Old: "the store is down"}, "those of other hosts are not known: the store is down"},
		{admin.NamesStatus{Old: "the store is down", AsOf: time.Unix(0, 0).UTC()}, "those of other hosts are as of 1970-01-01T00:00:00Z: the store is down"},
	} {
		var out bytes.Buffer
		printNames(&out, &c.status)
		if !strings.Contains(out.String(), c.want) {
			t.Errorf("no line %q:\n%s", c.want, out.String())
		}
	}
}

// TestNamesProblem: a problem that ends while the status is made is told, or not, but no harm.
func TestNamesProblem(t *testing.T) {
	problem := errors.New("the engine has no list")
	ends := func() error {
		defer func() { problem = nil }()
		return problem
	}
	for _, want := range []string{"the engine has no list", ""} {
		if got := namesProblem(true, "/run/docker.sock", ends); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestNamesAreFolded: names that the resolver takes for one are one in the list, with each
// address once; others are not.
func TestNamesAreFolded(t *testing.T) {
	book := names.NewBook()
	addr := netip.MustParseAddr
	book.SetNetwork(names.Network{ID: "n1", Name: "demo", Endpoints: []names.Endpoint{
		{Host: "h1", ID: "e1", Names: []string{"cache", "cache.", "Cache", "."}, Addrs: []netip.Addr{addr("10.0.0.3")}},
		{Host: "h2", ID: "e2", Names: []string{"CACHE"}, Addrs: []netip.Addr{addr("10.0.0.2")}},
		{Host: "h2", ID: "e3", Names: []string{"Ä", "Ä."}, Addrs: []netip.Addr{addr("10.0.0.4")}},
		{Host: "h3", ID: "e4", Names: []string{"ä"}, Addrs: []netip.Addr{addr("10.0.0.5")}},
	}})
	var got []string
	for _, n := range listNames(book.Networks(), func(id string) string { return "host " + id }) {
		got = append(got, fmt.Sprintf("%s: %v %v", n.Name, n.Addresses, n.Hosts))
	}
	want := []string{"CACHE: [10.0.0.2 10.0.0.3] [host h1 host h2]", "Ä: [10.0.0.4] [host h2]", "ä: [10.0.0.5] [host h3]"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestNamesThatStay: of a host that is away it is said how its names end, by its id where its
// name does not tell which host it is.
func TestNamesThatStay(t *testing.T) {
	hosts := []cluster.HostView{
		{ID: "1a2b3c4d5e6f", Name: "h1"}, {ID: "9a9b9c9d9e9f", Name: "h1", Connected: true}, {ID: "2a2b", Name: "h2"},
		{ID: "3a3b", Name: "h3", Me: true}, {ID: "4a4b"}, {ID: "5a5b", Name: "h5"},
	}
	at := func(hosts ...string) (n names.Network) {
		for i, host := range hosts {
			n.Endpoints = append(n.Endpoints, names.Endpoint{Host: host, ID: fmt.Sprint(i), Names: []string{"web"}})
		}
		return n
	}
	networks := []names.Network{at("1a2b3c4d5e6f", "9a9b9c9d9e9f", "2a2b", "3a3b"), at("2a2b", "4a4b")}
	got := strings.Join(namesThatStay(hosts, networks, func(id ownership.Host) string { return "called " + string(id) }), "\n")
	for _, want := range []string{
		"1 endpoints of host called 1a2b3c4d5e6f, which", "weft host rm --powered-off 1a2b3c4d5e6f`", "2 endpoints of host called 2a2b, which",
		"weft host rm --powered-off h2`", "1 endpoints of host called 4a4b, which", "weft host rm --powered-off 4a4b`",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("it lacks %q:\n%s", want, got)
		}
	}
	if n := strings.Count(got, "keep their names"); n != 3 {
		t.Errorf("%d hosts are named, want 3:\n%s", n, got)
	}
}

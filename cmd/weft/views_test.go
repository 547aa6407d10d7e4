package main

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/internal/config"
	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/internal/kernel/kerneltest"
)

// TestEndpointsOfTheGone: an endpoint is not said to be in a container whose sandbox is gone, but
// for one that is so new that its sandbox may be still to come.
func TestEndpointsOfTheGone(t *testing.T) {
	dir := t.TempDir()
	gone := filepath.Join(dir, "gone")
	n1, n2, alone := strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", 64)
	had := []journal.Op{
		journal.Put("networks", n1, driver.Network{ID: n1, Mode: "overlay", Shared: &driver.Shared{UUID: "0a", VNI: 4097}}),
		journal.Put("networks", n2, driver.Network{ID: n2, Mode: "overlay", Shared: &driver.Shared{UUID: "0b", VNI: 4098}}),
		journal.Put("networks", alone, driver.Network{ID: alone, Mode: "bridge"}),
	}
	for _, ep := range []driver.Endpoint{
		{ID: "lives", Network: n1, Joined: true, Sandbox: kerneltest.Sandbox(t)},
		{ID: "new", Network: n1, Joined: true, Sandbox: filepath.Join(dir, "to-come"), Created: time.Now()},
		{ID: "gone1", Network: n1, Joined: true, Sandbox: gone},
		{ID: "gone2", Network: n2, Joined: true, Sandbox: gone}, // of the same container
		{ID: "gone3", Network: alone, Joined: true, Sandbox: gone + "3"},
		{ID: "free", Network: n1},
	} {
		had = append(had, journal.Put("endpoints", ep.ID, ep))
	}
	cfg := config.Config{Names: config.NamesOn}
	cfg.Store.Endpoints = "etcd://127.0.0.1:9" // names are for a cluster, whether the store answers or not
	socket := serveAdmin(t, openHouse(t, cfg, dir, had...).source())
	out, err := run(t, "status", "--socket", socket)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"6 (2 in a container, 3 whose container is gone: freed some minutes after the engine forgot them)", "0 containers; 1 of them gone"} {
		if !strings.Contains(out, want) {
			t.Errorf("weft status lacks %q:\n%s", want, out)
		}
	}
}

// TestAddressText: what is special about an address is in one pair of brackets.
func TestAddressText(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.2")
	for _, c := range []struct {
		a    admin.Address
		want string
	}{
		{admin.Address{Address: addr, Kind: "endpoint"}, "10.0.0.2"},
		{admin.Address{Address: addr, Kind: "gateway"}, "10.0.0.2 (gateway)"},
		{admin.Address{Address: addr, Kind: "endpoint", Name: "web", Leaked: true}, "10.0.0.2 (web, leaked)"},
		{admin.Address{Address: addr, Kind: "endpoint", Name: "(this host)"}, "10.0.0.2 (this host)"},
		{admin.Address{Address: addr, Kind: "endpoint", Name: "(this host)", Conflict: true}, "10.0.0.2 (this host, CONFLICT)"},
	} {
		if got := addressText(c.a); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

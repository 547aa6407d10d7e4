package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/driver/parented"
	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/internal/config"
	"github.com/weft-net/weft/internal/firewall"
	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/ipam"
	"github.com/weft-net/weft/ipvlan"
	"github.com/weft-net/weft/macvlan"
)

// TestAsker: this host's containers are no machines, but it is one itself, whoever has its
// MAC address, and the IPAM is told in its words that a line is down.
func TestAsker(t *testing.T) {
	var fails error
	a := asker{
		probe: func(context.Context, string, string, []netip.Addr) (map[netip.Addr]kernel.Station, error) {
			out := map[netip.Addr]kernel.Station{}
			for i := byte(1); i <= 3; i++ {
				out[netip.AddrFrom4([4]byte{10, 9, 0, i})] = kernel.Station{MAC: net.HardwareAddr{2, 0, 0, 0, 0, i}, Own: map[byte]string{1: "e0"}[i]}
			}
			return out, fails
		},
		endpoints: func(string) []driver.Endpoint {
			return []driver.Endpoint{{MAC: "02:00:00:00:00:01"}, {MAC: "02:00:00:00:00:02"}, {}}
		},
	}
	for why, c := range map[string]struct {
		err  error
		down bool
	}{
		"all is well":       {nil, false},
		"the line is down":  {kernel.ErrLineDown, true},
		"the line is gone":  {kernel.ErrNotFound, true},
		"something is full": {errors.New("no buffer space"), false},
	} {
		fails = c.err
		found, err := a.Probe(t.Context(), "e0", "mine", nil)
		if !errors.Is(err, c.err) || errors.Is(err, ipam.ErrNoLine) != c.down {
			t.Errorf("%s: %v", why, err)
		}
		got := slices.SortedFunc(maps.Keys(found), netip.Addr.Compare)
		if len(got) != 2 || got[0].String() != "10.9.0.1" || got[1].String() != "10.9.0.3" || found[got[0]].Own != "e0" || found[got[1]].Own != "" {
			t.Errorf("%s: found %v", why, found)
		}
	}
}

// TestTaken: whoever has addresses of pools is told apart, with what helps.
func TestTaken(t *testing.T) {
	taken := func(last byte, own string, held bool) ipam.Foreigner {
		return ipam.Foreigner{Address: netip.AddrFrom4([4]byte{10, 9, 0, last}), MAC: net.HardwareAddr{2, 0, 0, 0, 0, last}, Own: own, Held: held}
	}
	list := []ipam.Foreigner{taken(1, "", false), taken(2, "", true), taken(3, "eth0", false), taken(4, "eth0", true)}
	pool := admin.Pool{}
	for _, f := range list {
		pool.Foreigners = append(pool.Foreigners, foreigner(f))
	}
	socket := serveAdmin(t, admin.Source{
		Status: func(context.Context) (st admin.Status, _ error) {
			countForeigners(&st, []ipam.PoolView{{Foreigners: list[:1]}, {Foreigners: list[1:]}})
			return st, nil
		},
		Pools: func(context.Context) ([]admin.Pool, error) { return []admin.Pool{pool}, nil },
	})
	for command, lines := range map[string][]string{
		"ipam": {"10.9.0.1 (FOREIGN: 02:00:00:00:00:01), 10.9.0.2 (FOREIGN: 02:00:00:00:00:02), 10.9.0.3 (THIS HOST: eth0), 10.9.0.4 (THIS HOST: eth0)"},
		"status": {
			"10.9.0.2 is in use here, and the machine 02:00:00:00:00:02 on the line has it too: restart what has it here",
			"a container here has 10.9.0.4, and this host itself has it on eth0: take it off eth0, or give the container another address",
			"4 (this host itself has 2), see weft ipam",
		},
	} {
		out, err := run(t, command, "--socket", socket)
		for _, line := range lines {
			if err != nil || !hasLine(out, line) {
				t.Errorf("weft %s lacks %q (%v):\n%s", command, line, err, out)
			}
		}
	}
}

// TestFollowsBeforeItsAddress: a network goes to the device that its options mean by now before
// an address of it is asked for there.
func TestFollowsBeforeItsAddress(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	j, err := journal.Open(filepath.Join(t.TempDir(), "journal.db"))
	must(err)
	t.Cleanup(func() { must(j.Close()) })
	k := kernel.NewFake()
	k.AddDevice(kernel.Link{Name: "eth0", Up: true, MAC: kernel.MAC{2, 0, 0, 0, 0, 1}})
	h := &house{journal: j, hostID: "host"}
	on := parented.Config{Kernel: k, Later: kernel.NewLater(k, 0, nil), Parents: parented.NewParents(k, nil), Seed: "seed"}
	h.macvlan, h.ipvlan = macvlan.New(on), ipvlan.New(on)
	h.driver, err = driver.New(driver.Config{Journal: j, Kernel: k, Firewall: &firewall.Fake{}, DefaultMode: "macvlan", Kinds: map[string]driver.Kind{"macvlan": h.macvlan}})
	must(err)
	h.ipam, err = h.openIPAM(config.Config{}, false, slog.New(slog.DiscardHandler))
	must(err)
	pool, err := h.ipam.RequestPool(t.Context(), ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: netip.MustParsePrefix("10.1.0.0/24")})
	must(err)
	n := driver.Network{ID: strings.Repeat("a", 64), Options: map[string]string{"parent": "mac:02:00:00:00:00:01"}, IPv4: []driver.Subnet{{Pool: pool.Subnet}}}
	must(h.driver.CreateNetwork(t.Context(), n))
	must(h.ipam.Bind(t.Context(), n.ID, pool.Subnet))
	must(k.Rename("eth0", "eth1"))
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond) // nobody probes here
	defer cancel()
	if a, err := h.ipam.RequestAddress(short, ipam.AddressRequest{PoolID: pool.ID}); err == nil {
		t.Errorf("%s is given, which nobody asked for", a)
	}
	if got := h.line(n.ID); got != "eth1" {
		t.Errorf("an address is asked for on %s", got)
	}
}

package parented_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/driver/parented"
	"github.com/weft-net/weft/internal/kernel"
)

// TestFind: where -o parent and -o vlan lead on a host.
func TestFind(t *testing.T) {
	links := []kernel.Link{
		{Index: 1, Name: "lo", Loopback: true},
		{Index: 2, Name: "eth0", MAC: kernel.MAC{2, 0, 0, 0, 0, 2}},
		{Index: 3, Name: "eth1", MAC: kernel.MAC{2, 0, 0, 0, 0, 3}, AltNames: []string{"enp0s3", "enp0s31f6-the-second", "eth0"}},
		{Index: 4, Name: "eth0.100", Kind: "vlan", Parent: 2, VLAN: 100, Group: kernel.Group, MAC: kernel.MAC{2, 0, 0, 0, 0, 2}},
		{Index: 5, Name: "office", Kind: "vlan", Parent: 2, VLAN: 7, MAC: kernel.MAC{2, 0, 0, 0, 0, 2}},
		{Index: 6, Name: "eth1.9", Kind: "bridge"},
		{Index: 12, Name: "provider", Kind: "vlan", Parent: 3, VLAN: 200, Provider: true}, // no VLAN 200 as meant
		{Index: 13, Name: "eth1.8", Kind: "vlan", Parent: 3, VLAN: 8, Provider: true},
		{Index: 7, Name: "enx0011223344"},
		{Index: 8, Name: "port", Master: 9, MAC: kernel.MAC{2, 0, 0, 0, 0, 8}}, // as of a virtual card and the real one below
		{Index: 9, Name: "eth2", MAC: kernel.MAC{2, 0, 0, 0, 0, 8}},
		{Index: 10, Name: "eth3", MAC: kernel.MAC{2, 0, 0, 0, 0, 0xc}, PermMAC: kernel.MAC{2, 0, 0, 0, 0, 0xa}}, // below a container in mode passthru
		{Index: 11, Name: "eth4", MAC: kernel.MAC{2, 0, 0, 0, 0, 0xb}, PermMAC: kernel.MAC{2, 0, 0, 0, 0, 2}},
	}
	route := func(dst string, link int) kernel.Route {
		return kernel.Route{Dst: netip.MustParsePrefix(dst), Link: link}
	}
	routes := []kernel.Route{route("0.0.0.0/0", 2), route("10.0.0.0/8", 2), route("10.1.0.0/16", 3), {Dst: netip.MustParsePrefix("10.1.9.9/32"), Link: 2, Ours: true}}
	for _, c := range []struct {
		parent string
		vlan   int
		want   parented.Place
		err    string
	}{
		{"eth0", 0, parented.Place{Device: "eth0", Parent: "eth0", Exists: true, Adopted: true}, ""},
		{"eth0.100", 0, parented.Place{Device: "eth0.100", Parent: "eth0", VLAN: 100, Exists: true}, ""},
		{"eth0", 100, parented.Place{Device: "eth0.100", Parent: "eth0", VLAN: 100, Exists: true}, ""},
		{"eth0", 7, parented.Place{Device: "office", Parent: "eth0", VLAN: 7, Exists: true, Adopted: true}, ""},
		{"eth0.7", 0, parented.Place{Device: "office", Parent: "eth0", VLAN: 7, Exists: true, Adopted: true}, ""},
		{"eth1.200", 0, parented.Place{Device: "eth1.200", Parent: "eth1", VLAN: 200}, ""},
		{"eth1", 200, parented.Place{Device: "eth1.200", Parent: "eth1", VLAN: 200}, ""},
		{"provider", 0, parented.Place{Device: "provider", Parent: "eth1", VLAN: 200, Exists: true, Adopted: true}, ""},
		{"ens1,eth1", 0, parented.Place{Device: "eth1", Parent: "eth1", Exists: true, Adopted: true}, ""},
		{"ens1.5,eth1.5", 0, parented.Place{Device: "eth1.5", Parent: "eth1", VLAN: 5}, ""},
		{"route:10.1.2.0/24", 0, parented.Place{Device: "eth1", Parent: "eth1", Exists: true, Adopted: true, Route: routes[2].Dst, Wanted: netip.MustParsePrefix("10.1.2.0/24")}, ""},
		{"route:10.1.9.9/32", 0, parented.Place{Device: "eth1", Parent: "eth1", Exists: true, Adopted: true, Route: routes[2].Dst, Wanted: netip.MustParsePrefix("10.1.9.9/32")}, ""},
		{"route:10.2.0.0/16", 30, parented.Place{Device: "eth0.30", Parent: "eth0", VLAN: 30, Route: routes[1].Dst, Wanted: netip.MustParsePrefix("10.2.0.0/16")}, ""},
		{"route:0.0.0.0/0", 0, parented.Place{Device: "eth0", Parent: "eth0", Exists: true, Adopted: true, Route: routes[0].Dst, Wanted: netip.MustParsePrefix("0.0.0.0/0")}, ""},
		{"mac:02:00:00:00:00:02", 0, parented.Place{Device: "eth0", Parent: "eth0", Exists: true, Adopted: true}, ""},
		{"mac:02:00:00:00:00:08", 0, parented.Place{Device: "eth2", Parent: "eth2", Exists: true, Adopted: true}, ""},
		{"route:192.168.0.0/24,mac:02:00:00:00:00:03", 0, parented.Place{Device: "eth1", Parent: "eth1", Exists: true, Adopted: true}, ""},
		{"mac:02:00:00:00:00:0a", 0, parented.Place{Device: "eth3", Parent: "eth3", Exists: true, Adopted: true}, ""},
		{"eth9,enp0s31f6-the-second", 0, parented.Place{Device: "eth1", Parent: "eth1", Exists: true, Adopted: true}, ""},
		{"enp0s3.200", 0, parented.Place{Device: "eth1.200", Parent: "eth1", VLAN: 200}, ""},

		{"eth9", 0, parented.Place{}, "-o parent interface was not found on the host: eth9"},
		{"ens1,ens2", 0, parented.Place{}, "-o parent interface was not found on the host: ens1,ens2"},
		{"eth9.5", 0, parented.Place{}, "-o parent interface was not found on the host: eth9.5"},
		{"route:192.168.0.0/24", 0, parented.Place{}, "-o parent interface was not found on the host"},
		{"mac:02:00:00:00:00:09", 0, parented.Place{}, "-o parent interface was not found on the host"},
		{"eth1.0", 0, parented.Place{}, "vlan id must be between 1-4094, received: 0"},
		{"eth1.4095", 0, parented.Place{}, "vlan id must be between 1-4094, received: 4095"},
		{"eth1.99999", 0, parented.Place{}, "vlan id must be between 1-4094, received: 99999"},
		{"eth1.x", 0, parented.Place{}, "invalid subinterface vlan name eth1.x, example formatting is eth0.10"},
		{"eth1.", 0, parented.Place{}, "invalid subinterface vlan name eth1."},
		{"eth1.+5", 0, parented.Place{}, "invalid subinterface vlan name eth1.+5"},
		{"eth1.005", 0, parented.Place{}, "invalid subinterface vlan name eth1.005"},
		{"eth1.5.6", 0, parented.Place{}, "eth1.5 is a sub-interface"},
		{"eth0.100.200", 0, parented.Place{}, "eth0.100 is a sub-interface"},
		{"eth0.100", 200, parented.Place{}, "eth0.100 is a sub-interface"},
		{"office", 200, parented.Place{}, "office is a sub-interface"},
		{"eth1", 8, parented.Place{}, "the device eth1.8 exists and is not VLAN 8 of eth1"},
		{"eth1", 9, parented.Place{}, "the device eth1.9 exists and is not VLAN 9 of eth1"},
		{"enx0011223344", 4000, parented.Place{}, "a device name has at most 15"},
	} {
		got, err := parented.Find(c.parent, c.vlan, links, routes)
		if c.err == "" && (err != nil || got != c.want) {
			t.Errorf("parent=%s vlan=%d: %+v, %v, want %+v", c.parent, c.vlan, got, err, c.want)
		}
		if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("parent=%s vlan=%d: the error %v lacks %q (place %+v)", c.parent, c.vlan, err, c.err, got)
		}
	}
}

// TestWhereToLook: the hint names the list in which something fitting would be.
func TestWhereToLook(t *testing.T) {
	for parent, want := range map[string][2]bool{
		"eth9,ens1": {true, false}, "mac:02:00:00:00:00:09": {true, false},
		"route:192.168.0.0/24": {false, true}, "eth9,route:192.168.0.0/24": {true, true},
	} {
		_, err := parented.Find(parent, 0, nil, nil)
		var hinted interface{ Hint() string }
		if !errors.As(err, &hinted) {
			t.Fatalf("%s: %v", parent, err)
		}
		if got := [2]bool{strings.Contains(hinted.Hint(), "`ip link`"), strings.Contains(hinted.Hint(), "`ip route`")}; got != want {
			t.Errorf("%s: %q", parent, hinted.Hint())
		}
	}
}

// TestCheckParent refuses what no host can have.
func TestCheckParent(t *testing.T) {
	for v, good := range map[string]bool{
		"eth0": true, "eth0.100": true, "eth0,ens1.5,route:10.0.0.0/24,mac:02:00:00:00:00:01": true, "eth0.x": true,
		"": true, "eth0,": false, "a/b": false, "route:10.0.0.0": false, "mac:02:00": false, "eth 0": false, "averyveryverylongname": true,
		strings.Repeat("long", 32): false, "MAC:02:00:00:00:00:01": false, "eth0,Route:10.0.0.0/24": false,
	} {
		if err := parented.CheckParent(v); (err == nil) != good {
			t.Errorf("%q: %v", v, err)
		}
	}
}

// TestMTUOfSubInterface: of a sub-interface that is there its own MTU counts.
func TestMTUOfSubInterface(t *testing.T) {
	h := newHouse(t)
	h.kernel.AddDevice(kernel.Link{Name: "eth9", Up: true, Carrier: true, MTU: 9000})
	below, err := h.kernel.LinkByName("eth9")
	h.must(err)
	h.kernel.AddDevice(kernel.Link{Name: "eth9.7", Kind: "vlan", Parent: below.Index, VLAN: 7, Up: true, Carrier: true, MTU: 1500})
	big := func(letter, parent string) error {
		return h.CreateNetwork(t.Context(), network(letter, "10.5.0.0/24", "mode", "macvlan", "parent", parent, driver.OptMTU, "9000"))
	}
	if err := big("a", "eth9.7"); err == nil || !strings.Contains(err.Error(), "the parent eth9.7 has an MTU of 1500") {
		t.Errorf("more than it has: %v", err)
	}
	h.must(big("b", "eth9.8"))
}

// TestProviderVLAN: a device of 802.1ad is none of the VLAN of the same number.
func TestProviderVLAN(t *testing.T) {
	h := newHouse(t)
	below, err := h.kernel.LinkByName("eth0")
	h.must(err)
	h.kernel.AddDevice(kernel.Link{Name: "provider", Kind: "vlan", Parent: below.Index, VLAN: 5, Provider: true, Up: true, Carrier: true})
	h.create(network("a", "10.5.0.0/24", "mode", "macvlan", "parent", "eth0.5"))
	if n, _ := h.Network(id("a")); n.Device != "eth0.5" || n.Adopted {
		t.Errorf("it is on %s, adopted %t", n.Device, n.Adopted)
	}
	h.reconciled(driver.Full)
	h.untroubled()
	h.must(h.kernel.Lose("eth0.5"))
	h.reconciled(driver.Changes)
	h.has("eth0.5 kind=vlan", true)
}

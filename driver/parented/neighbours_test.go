package parented_test

import (
	"testing"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/driver/parented"
	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/ipvlan"
	"github.com/weft-net/weft/macvlan"
)

// TestLine: on which device there may be other machines with a network's addresses.
func TestLine(t *testing.T) {
	k := kernel.NewFake()
	cfg := parented.Config{Kernel: k, Later: kernel.NewLater(k, 0, nil), Parents: parented.NewParents(k, nil), Seed: "seed"}
	mac, ipv := macvlan.New(cfg), ipvlan.New(cfg)
	on := func(mode string, options ...string) driver.Network {
		n := network("a", "10.9.0.0/24", append(options, "mode", mode)...)
		n.Mode, n.Parent, n.Device = mode, "eth0", "eth0.7"
		return n
	}
	dummy := on("macvlan")
	dummy.Parent, dummy.Device = "", "dm-aaaaaaaaaaaa"
	for _, c := range []struct {
		why       string
		n         driver.Network
		mac, ipvl string
	}{
		{"macvlan", on("macvlan"), "eth0.7", ""},
		{"macvlan passthru", on("macvlan", "macvlan_mode", "passthru"), "eth0.7", ""},
		{"no parent", dummy, "", ""},
		{"ipvlan", on("ipvlan"), "", "eth0.7"},
		{"ipvlan l2", on("ipvlan", "ipvlan_mode", "l2"), "", "eth0.7"},
		{"the host routes", on("ipvlan", "ipvlan_mode", "l3"), "", ""},
		{"the host routes", on("ipvlan", "ipvlan_mode", "l3s"), "", ""},
		{"a bridge", on("bridge"), "", ""},
	} {
		if m, i := mac.Line(c.n), ipv.Line(c.n); m != c.mac || i != c.ipvl {
			t.Errorf("%s: macvlan says %q and ipvlan %q", c.why, m, i)
		}
	}
}

package main

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/ownership"
)

// TestTwinsOn: what has the same MAC address on two hosts is told on both, but for ipvlan.
func TestTwinsOn(t *testing.T) {
	on := func(host ownership.Host, mac, addr string) directory.Endpoint {
		e := directory.Endpoint{ID: "0123456789abcdef", Host: host, MAC: mac}
		if addr != "" {
			e.Addrs = []netip.Addr{netip.MustParseAddr(addr)}
		}
		return e
	}
	eps := []directory.Endpoint{
		on("1", "02:00:00:00:00:01", "10.0.0.1"), on("1", "02:00:00:00:00:02", "10.0.0.2"), on("1", "", "10.0.0.7"),
		on("2", "02:00:00:00:00:02", ""), on("2", "02:00:00:00:00:03", "10.0.0.3"), on("3", "02:00:00:00:00:03", "10.0.0.4"), on("3", "", "10.0.0.8"),
	}
	name := func(h ownership.Host) string { return "h" + string(h) }
	for _, c := range []struct {
		mode string
		me   ownership.Host
		want []string
	}{
		{"macvlan", "1", []string{"10.0.0.2 here and endpoint 0123456789ab on host h2 have the same MAC address 02:00:00:00:00:02, so that only one of them is reached: give one container another --mac-address"}},
		{"overlay", "3", []string{"10.0.0.4 here and 10.0.0.3 on host h2 have the same MAC address 02:00:00:00:00:03, so that only one of them is reached: give one container another --mac-address"}},
		{"ipvlan", "1", nil},
		{"macvlan", "4", nil},
	} {
		if got := twinsOn(driver.Network{Mode: c.mode}, eps, c.me, name); !slices.Equal(got, c.want) {
			t.Errorf("%s on host %s: %q", c.mode, c.me, got)
		}
	}
}

package kernel_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/kernel/kerneltest"
)

// TestAddressStates: what can be said of an address.
func TestAddressStates(t *testing.T) {
	host := kerneltest.Host(t)
	line(t)
	if _, err := host.EnsureSysctl(kernel.Sysctl{Key: "net.ipv6.conf.e0.use_tempaddr", Value: "2"}); err != nil {
		t.Fatal(err)
	}
	ip(t, "addr", "add", "fd09::3/64", "dev", "e1", "nodad")
	ip(t, "addr", "add", "10.9.0.1/24", "dev", "e0")
	ip(t, "addr", "add", "10.9.0.2/24", "dev", "e0") // a secondary one
	ip(t, "addr", "add", "fd09::1/64", "dev", "e0", "nodad")
	ip(t, "addr", "add", "fd09::2/64", "dev", "e0", "nodad", "preferred_lft", "0")
	ip(t, "addr", "add", "fd09::3/64", "dev", "e0")
	ip(t, "addr", "add", "fd0a::1/64", "dev", "e0", "nodad", "mngtmpaddr")
	e0, err := host.LinkByName("e0")
	if err != nil {
		t.Fatal(err)
	}
	states := func() map[string]kernel.Address {
		list, err := host.Addresses()
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]kernel.Address{}
		for _, a := range list {
			name := a.Prefix.Addr().String()
			if a.Temporary && netip.MustParsePrefix("fd0a::/64").Contains(a.Prefix.Addr()) {
				name = "temporary"
			}
			if a.Link == e0.Index {
				out[name] = kernel.Address{Tentative: a.Tentative && !a.Temporary, Refused: a.Refused, Deprecated: a.Deprecated, Temporary: a.Temporary}
			}
		}
		return out
	}
	expect := func(have map[string]kernel.Address, address string, want kernel.Address) {
		t.Helper()
		if got, ok := have[address]; !ok || got != want {
			t.Errorf("%s is %+v (%t), want %+v", address, got, ok, want)
		}
	}
	have := states()
	for _, plain := range []string{"10.9.0.1", "10.9.0.2", "fd09::1", "fd0a::1"} {
		expect(have, plain, kernel.Address{})
	}
	expect(have, "fd09::2", kernel.Address{Deprecated: true})
	expect(have, "fd09::3", kernel.Address{Tentative: true})
	expect(have, "temporary", kernel.Address{Temporary: true})
	tick := time.Tick(20 * time.Millisecond)
	for end := time.Now().Add(10 * time.Second); states()["fd09::3"].Tentative && time.Now().Before(end); {
		<-tick
	}
	expect(states(), "fd09::3", kernel.Address{Refused: true})
}

package ipam_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/weft-net/weft/ipam"
)

// TestEqualSubnetsOnLines: networks on lines of their own may have one subnet, and share
// its book; everybody else may not.
func TestEqualSubnetsOnLines(t *testing.T) {
	const beingMade = "the network of the first pool is not there yet"
	line := func(letter string) string { return strings.Repeat(letter, 64) }
	h := newHost(t, func(c *ipam.Config) {
		c.OnLine = func(network string) bool { return network != line("c") }
	})
	refused := func(why, subnet string) {
		t.Helper()
		_, err := h.RequestPool(t.Context(), ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: prefix(subnet)})
		var hinted interface{ Hint() string }
		passes := errors.As(err, &hinted) && strings.Contains(hinted.Hint(), "try again in a moment")
		if !errors.Is(err, ipam.ErrOverlap) || passes != (why == beingMade) {
			t.Errorf("%s: %v", why, err)
		}
	}
	bind := func(letter, subnet string) {
		t.Helper()
		if err := h.Bind(t.Context(), line(letter), prefix(subnet)); err != nil {
			t.Fatal(err)
		}
	}
	first := h.subnet(t, "10.0.0.0/24")
	refused(beingMade, "10.0.0.0/24")
	h.take(t, ipam.AddressRequest{PoolID: first, Address: netip.MustParseAddr("10.0.0.1"), Gateway: true})
	bind("a", "10.0.0.0/24")
	refused("a subnet of another size", "10.0.0.0/25")
	second := h.subnet(t, "10.0.0.0/24")
	h.take(t, ipam.AddressRequest{PoolID: second, Address: netip.MustParseAddr("10.0.0.1"), Gateway: true})
	bind("b", "10.0.0.0/24")
	one := h.take(t, ipam.AddressRequest{PoolID: first})
	two := h.take(t, ipam.AddressRequest{PoolID: second})
	if one == two {
		t.Errorf("both networks have %s", one)
	}
	h.restart(t)
	if err := h.ReleasePool(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	for _, a := range h.View()[0].Addresses {
		if a.Address == one {
			t.Errorf("%s of the network that is gone is in use", one)
		}
	}
	if got := h.take(t, ipam.AddressRequest{PoolID: second}); got == two || got == netip.MustParseAddr("10.0.0.1") {
		t.Errorf("%s is in use", got)
	}

	h.subnet(t, "10.1.0.0/24")
	bind("c", "10.1.0.0/24")
	refused("a network that is on no line has it", "10.1.0.0/24")
}

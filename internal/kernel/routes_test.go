package kernel_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/kernel/kerneltest"
)

// TestRouteMatch: the kernel and the fake find the same route among many.
func TestRouteMatch(t *testing.T) {
	host := kerneltest.Host(t)
	line(t)
	fake := fakeLine()
	ip(t, "addr", "add", "10.9.0.10/24", "dev", "e0")
	ip(t, "addr", "add", "fd09::10/64", "dev", "e0", "nodad")
	fake.AddRoute(netip.MustParsePrefix("10.9.0.0/24"), netip.Addr{}, "e0")
	fake.AddRoute(netip.MustParsePrefix("fd09::/64"), netip.Addr{}, "e0")
	for _, dst := range []string{"10.0.0.0/8", "10.64.0.0/10", "10.64.3.0/24", "fd00::/16", "0.0.0.0/0"} {
		p := netip.MustParsePrefix(dst)
		via := netip.MustParseAddr("10.9.0.1")
		if p.Addr().Is6() {
			via = netip.MustParseAddr("fd09::1")
		}
		ip(t, "route", "add", dst, "via", via.String())
		fake.AddRoute(p, via, "e0")
	}
	ip(t, "route", "add", "blackhole", "10.65.0.0/16")
	e0, err := host.LinkByName("e0")
	if err != nil {
		t.Fatal(err)
	}
	for to, want := range map[string]string{
		"10.9.0.1": "10.9.0.0/24", "10.1.2.3": "10.0.0.0/8 via 10.9.0.1", "10.64.0.1": "10.64.0.0/10 via 10.9.0.1", "10.64.3.9": "10.64.3.0/24 via 10.9.0.1",
		"fd00::1": "fd00::/16 via fd09::1", "fd09::7": "fd09::/64", "192.0.2.1": "0.0.0.0/0 via 10.9.0.1",
		"fd99::1": "", "10.65.0.1": "", "10.9.0.10": "",
	} {
		r, err := host.RouteMatch(netip.MustParseAddr(to))
		if got := said(r, e0.Index, err); got != want {
			t.Errorf("to %s: %q (%v), want %q", to, got, err, want)
		}
		if to == "10.65.0.1" || to == "10.9.0.10" {
			continue // the fake has no such routes
		}
		f, err := fake.LinkByName("e0")
		if err != nil {
			t.Fatal(err)
		}
		r, err = fake.RouteMatch(netip.MustParseAddr(to))
		if got := said(r, f.Index, err); got != want {
			t.Errorf("to %s: the fake says %q (%v), want %q", to, got, err, want)
		}
	}
}

// said is a route by a device in words, empty if there is none.
func said(r kernel.Route, device int, err error) string {
	switch {
	case errors.Is(err, kernel.ErrNotFound):
		return ""
	case err != nil:
		return err.Error()
	case r.Link != device:
		return fmt.Sprintf("by device %d", r.Link)
	case r.Gateway.IsValid():
		return fmt.Sprintf("%s via %s", r.Dst, r.Gateway)
	}
	return r.Dst.String()
}

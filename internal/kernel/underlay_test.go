package kernel_test

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/kernel/kerneltest"
)

// comparable addresses, for cmp.
func sameAddr() cmp.Option { return cmp.Comparer(func(a, b netip.Addr) bool { return a == b }) }

// TestRouteTo finds source, device and MTU of the way to another host.
func TestRouteTo(t *testing.T) {
	host := kerneltest.Host(t)
	ip(t, "link", "set", "lo", "up")
	ip(t, "link", "add", "eth7", "mtu", "9000", "type", "veth", "peer", "name", "peer7")
	ip(t, "link", "set", "peer7", "up")
	ip(t, "link", "set", "eth7", "up")
	ip(t, "addr", "add", "192.0.2.1/24", "dev", "eth7")
	ip(t, "addr", "add", "fd99::1/64", "dev", "eth7", "nodad")
	ip(t, "route", "add", "198.51.100.0/24", "via", "192.0.2.254", "mtu", "1400")
	ip(t, "route", "add", "fd98::/64", "via", "fd99::fe", "mtu", "1380")
	ip(t, "route", "add", "prohibit", "203.0.113.0/24")
	for to, want := range map[string]kernel.Path{
		"192.0.2.2":        {Source: addr("192.0.2.1"), Link: "eth7", MTU: 9000},
		"fd99::2":          {Source: addr("fd99::1"), Link: "eth7", MTU: 9000},
		"198.51.100.7":     {Source: addr("192.0.2.1"), Gateway: addr("192.0.2.254"), Link: "eth7", MTU: 1400},
		"::ffff:192.0.2.2": {Source: addr("192.0.2.1"), Link: "eth7", MTU: 9000},
		"fd98::7":          {Source: addr("fd99::1"), Gateway: addr("fd99::fe"), Link: "eth7", MTU: 1380},
		"192.0.2.1":        {Source: addr("192.0.2.1"), Link: "lo", MTU: 65536},
	} {
		got, err := host.RouteTo(addr(to))
		if d := cmp.Diff(want, got, sameAddr()); d != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", to, err, d)
		}
	}
	for _, to := range []string{"203.0.113.1", "100.64.0.1", "fd97::1"} {
		if p, err := host.RouteTo(addr(to)); !errors.Is(err, kernel.ErrNotFound) {
			t.Errorf("%s: %+v, %v", to, p, err)
		}
	}
	fake := kernel.NewFake()
	fake.AddDevice(kernel.Link{Name: "eth7", MTU: 9000, Up: true}, prefixes("192.0.2.1/24", "fd99::1/64")...)
	fake.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), addr("192.0.2.254"), "eth7")
	for to, want := range map[string]kernel.Path{
		"192.0.2.2": {Source: addr("192.0.2.1"), Link: "eth7", MTU: 9000},
		"fd99::2":   {Source: addr("fd99::1"), Link: "eth7", MTU: 9000},
		"8.8.8.8":   {Source: addr("192.0.2.1"), Gateway: addr("192.0.2.254"), Link: "eth7", MTU: 9000},
		"192.0.2.1": {Source: addr("192.0.2.1"), Link: "lo", MTU: 65536},
	} {
		got, err := fake.RouteTo(addr(to))
		if d := cmp.Diff(want, got, sameAddr()); d != "" || err != nil {
			t.Errorf("fake: %s: %v (-want +got):\n%s", to, err, d)
		}
	}
}

// TestGatewayIsNoSource asks the kernel from which address it would send: never
// from the gateway, whatever was there first.
func TestGatewayIsNoSource(t *testing.T) {
	gateways := []netip.Addr{addr("10.5.0.1"), addr("fd05::1")}
	own := prefixes("10.5.0.101/24", "fd05::101/64")
	bridge := kernel.Bridge{Name: "wf-1", IPv6: true, MAC: net.HardwareAddr{2, 0, 0, 0, 8, 1}, RouteLocalnet: true}
	for name, steps := range map[string][][]netip.Prefix{"at once": {own}, "gateway first": {nil, own}, "one by one": {own[:1], own}} {
		t.Run(name, func(t *testing.T) {
			host := kerneltest.Host(t)
			ip(t, "link", "set", "lo", "up")
			for _, addrs := range steps {
				b := bridge
				b.Addrs, b.Gateways = addrs, gateways
				if _, err := host.EnsureBridge(b); err != nil {
					t.Fatal(err)
				}
			}
			ip(t, "link", "add", "x", "type", "veth", "peer", "name", "y") // carrier
			ip(t, "link", "set", "x", "master", "wf-1", "up")
			ip(t, "link", "set", "y", "up")
			ip(t, "route", "add", "10.77.0.0/16", "dev", "wf-1") // on the link, without a source of its own
			ip(t, "route", "add", "fd77::/64", "dev", "wf-1")
			// fd05::2 and fd05::3 have more bits in common with the gateway than with
			// the host's own address.
			for to, want := range map[string]string{
				"10.5.0.2": "10.5.0.101", "10.5.0.254": "10.5.0.101", "10.77.1.1": "10.5.0.101",
				"fd05::2": "fd05::101", "fd05::3": "fd05::101", "fd05::ffff": "fd05::101", "fd77::1": "fd05::101",
			} {
				if src, err := host.Source(addr(to)); err != nil || src != addr(want) {
					t.Errorf("to %s from %s, %v", to, src, err)
				}
			}
			if out := ip(t, "route", "get", "255.255.255.255", "oif", "wf-1"); !strings.Contains(out, "src 10.5.0.101") {
				t.Errorf("broadcast: %s", out)
			}
			routes, err := host.Routes()
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range routes {
				if r.Dst == netip.MustParsePrefix("fd05::1/128") {
					t.Error("the gateway has a route of its own")
				}
			}
			addrs, err := host.Addresses()
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range append(prefixes("10.5.0.1/32", "fd05::1/128"), own...) {
				if !slices.ContainsFunc(addrs, func(a kernel.Address) bool { return a.Prefix == want }) {
					t.Errorf("%s is missing", want)
				}
			}
			if out := ip(t, "-6", "addr", "show", "wf-1", "scope", "global"); strings.Contains(out, "tentative") {
				t.Errorf("duplicate address detection runs:\n%s", out)
			}
		})
	}
}

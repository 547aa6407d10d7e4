package ipam_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/ipam"
)

// TestPoolOfANetwork: --ipam-opt net=NAME stands for the subnet that the cluster's
// network has, and for nothing where there is none.
func TestPoolOfANetwork(t *testing.T) {
	networks := map[string][]netip.Prefix{
		"both": {prefix("10.1.0.0/24"), prefix("fd01::/64")},
		"four": {prefix("10.4.0.0/24")},
		"six":  {prefix("fd06::/64")},
	}
	asked := 0
	h := newHost(t, func(cfg *ipam.Config) {
		cfg.Network = func(_ context.Context, name string) (ipam.NetworkPools, bool, error) {
			asked++
			if name == "away" {
				return ipam.NetworkPools{}, false, errors.New("it is down")
			}
			list, ok := networks[name]
			return ipam.NetworkPools{Subnets: list}, ok, nil
		}
	})
	for name, c := range map[string]struct {
		net, subnet, rng string
		ipv6             bool
		want             string
		err              error
		words            []string
	}{
		"IPv4":               {net: "both", want: "10.1.0.0/24"},
		"IPv6":               {net: "both", ipv6: true, want: "fd01::/64"},
		"a range of it":      {net: "four", rng: "10.4.0.128/25", want: "10.4.0.0/24"},
		"a range outside":    {net: "four", rng: "10.5.0.0/25", err: ipam.ErrSubnet, words: []string{"10.4.0.0/24"}},
		"with a subnet":      {net: "both", subnet: "10.9.0.0/24", want: "10.9.0.0/24"},
		"with a size":        {net: "both", subnet: "0.0.0.0/20", want: "/20"},
		"the first one":      {net: "new", want: "/"},
		"no such family":     {net: "four", ipv6: true, err: ipam.ErrOption, words: []string{"network four", "no IPv6 subnet", "10.4.0.0/24"}},
		"no IPv4":            {net: "six", err: ipam.ErrOption, words: []string{"network six", "no IPv4 subnet", "fd06::/64"}},
		"nobody can tell":    {net: "away", err: ipam.ErrStore, words: []string{"network away", "it is down"}},
		"no name":            {net: "", err: ipam.ErrOption, words: []string{`""`}},
		"no name, a subnet":  {net: "a/b", subnet: "10.9.0.0/24", err: ipam.ErrOption, words: []string{`"a/b"`}},
		"longer than a name": {net: strings.Repeat("x", 129), err: ipam.ErrOption},
	} {
		t.Run(name, func(t *testing.T) {
			req := ipam.PoolRequest{Space: ipam.LocalSpace, IPv6: c.ipv6, Options: map[string]string{"net": c.net}}
			if c.subnet != "" {
				req.Subnet = prefix(c.subnet)
			}
			if c.rng != "" {
				req.Range = prefix(c.rng)
			}
			p, err := h.RequestPool(t.Context(), req)
			if c.err != nil {
				wantRefusal(t, err, c.err, c.words...)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(p.Subnet.String(), c.want) && (c.want != "/" || !p.Subnet.IsValid()) {
				t.Errorf("%s instead of %s", p.Subnet, c.want)
			}
			for _, list := range networks {
				for _, of := range list {
					if c.net == "new" && of.Overlaps(p.Subnet) {
						t.Errorf("a network of its own got %s", p.Subnet)
					}
				}
			}
			if err := h.ReleasePool(t.Context(), p.ID); err != nil {
				t.Fatal(err)
			}
		})
	}
	if asked == 0 {
		t.Fatal("nobody was asked")
	}
}

// TestPoolOfANetworkAlone: a host in no cluster has no networks to name.
func TestPoolOfANetworkAlone(t *testing.T) {
	_, err := newHost(t).RequestPool(t.Context(), ipam.PoolRequest{Space: ipam.LocalSpace, Options: map[string]string{"net": "demo"}})
	wantRefusal(t, err, ipam.ErrOption, "net=demo", "WEFT_STORE")
}

// TestDomainOfANetwork: its subnet comes with its domain, unless the user says another.
func TestDomainOfANetwork(t *testing.T) {
	h := newHost(t, func(cfg *ipam.Config) {
		cfg.Network = func(context.Context, string) (ipam.NetworkPools, bool, error) {
			return ipam.NetworkPools{Subnets: []netip.Prefix{prefix("10.1.0.0/24")}, Domain: "lab"}, true, nil
		}
	})
	for want, options := range map[string]map[string]string{"lab": {"net": "demo"}, "mine": {"net": "demo", "domain": "mine"}} {
		if _, err := h.RequestPool(t.Context(), ipam.PoolRequest{Space: ipam.LocalSpace, Options: options}); err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(h.View(), func(p ipam.PoolView) bool { return p.Domain == want }) {
			t.Errorf("no pool in domain %s: %+v", want, h.View())
		}
	}
}

// TestPoolOfANetworkIsBounded: a store that hangs is not waited for without end.
func TestPoolOfANetworkIsBounded(t *testing.T) {
	var left time.Duration
	h := newHost(t, func(cfg *ipam.Config) {
		cfg.Network = func(ctx context.Context, _ string) (ipam.NetworkPools, bool, error) {
			end, ok := ctx.Deadline()
			if ok {
				left = time.Until(end)
			}
			return ipam.NetworkPools{}, false, context.DeadlineExceeded
		}
	})
	_, err := h.RequestPool(context.Background(), ipam.PoolRequest{Space: ipam.LocalSpace, Options: map[string]string{"net": "demo"}})
	wantRefusal(t, err, ipam.ErrStore, "demo")
	if left <= 0 || left > 5*time.Second {
		t.Errorf("it may take %v", left)
	}
}

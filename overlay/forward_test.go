package overlay

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/ownership"
)

func text(f kernel.Forwarding) string {
	var out []string
	for _, e := range f.FDB {
		out = append(out, e.String())
	}
	for _, n := range f.Neighbors {
		out = append(out, n.String())
	}
	return strings.Join(out, "\n")
}

func peer(host, vtep, id, mac string, rev int64, addrs ...string) directory.Endpoint {
	e := directory.Endpoint{ID: id, MAC: mac, Host: ownership.Host(host), Rev: rev}
	if vtep != "" {
		e.VTEP = netip.MustParseAddr(vtep)
	}
	for _, a := range addrs {
		e.Addrs = append(e.Addrs, netip.MustParseAddr(a))
	}
	return e
}

func TestForwarding(t *testing.T) {
	at := place{bridge: "wf-1", vxlan: "wx-1", local: netip.MustParseAddr("192.0.2.1"),
		own:   map[netip.Addr]bool{netip.MustParseAddr("203.0.113.1"): true},
		links: map[string]int{"wv-port": 7, "wv-other": 8}}
	const m2, m3 = "02:00:00:00:00:02", "02:00:00:00:00:03"
	for name, c := range map[string]struct {
		eps  []directory.Endpoint
		want []string
	}{
		"nobody":          {},
		"this host's own": {eps: []directory.Endpoint{peer("me", "192.0.2.1", "e", m2, 1, "10.0.0.2")}, want: []string{"neigh 10.0.0.2 dev wf-1 lladdr " + m2}},
		"this host's own with a link": {eps: []directory.Endpoint{peer("me", "192.0.2.1", "port", m2, 1, "10.0.0.2")},
			want: []string{"fdb " + m2 + " dev wv-port master", "neigh 10.0.0.2 dev wf-1 lladdr " + m2}},
		"two of this host with one MAC": {eps: []directory.Endpoint{peer("me", "192.0.2.1", "port", m2, 1), peer("me", "192.0.2.1", "other", m2, 2)}},
		"one of each family": {
			eps: []directory.Endpoint{peer("b", "192.0.2.2", "e", m2, 1, "10.0.0.2", "fd00::2")},
			want: []string{"fdb 00:00:00:00:00:00 dev wx-1 dst 192.0.2.2", "fdb " + m2 + " dev wx-1 dst 192.0.2.2", "fdb " + m2 + " dev wx-1 master",
				"neigh 10.0.0.2 dev wf-1 lladdr " + m2, "neigh fd00::2 dev wf-1 lladdr " + m2},
		},
		"two on one host": {
			eps: []directory.Endpoint{peer("b", "192.0.2.2", "e", m2, 1, "10.0.0.2"), peer("b", "192.0.2.2", "f", m3, 2, "10.0.0.3")},
			want: []string{"fdb 00:00:00:00:00:00 dev wx-1 dst 192.0.2.2", "fdb " + m2 + " dev wx-1 dst 192.0.2.2", "fdb " + m2 + " dev wx-1 master",
				"fdb " + m3 + " dev wx-1 dst 192.0.2.2", "fdb " + m3 + " dev wx-1 master", "neigh 10.0.0.2 dev wf-1 lladdr " + m2, "neigh 10.0.0.3 dev wf-1 lladdr " + m3},
		},
		"an address that this host's container has": {
			eps:  []directory.Endpoint{peer("me", "192.0.2.1", "e", m2, 1, "10.0.0.2"), peer("b", "192.0.2.2", "f", m2, 2, "10.0.0.2")},
			want: []string{"fdb 00:00:00:00:00:00 dev wx-1 dst 192.0.2.2", "neigh 10.0.0.2 dev wf-1 lladdr " + m2},
		},
		"hosts that advertise what this host has, and one that does not": {
			eps: []directory.Endpoint{peer("b", "192.0.2.1", "e", m2, 1, "10.0.0.2"), peer("c", "203.0.113.1", "e", m2, 2, "10.0.0.3"), peer("d", "192.0.2.4", "e", m3, 3, "10.0.0.4")},
			want: []string{"fdb 00:00:00:00:00:00 dev wx-1 dst 192.0.2.4", "fdb " + m3 + " dev wx-1 dst 192.0.2.4", "fdb " + m3 + " dev wx-1 master",
				"neigh 10.0.0.4 dev wf-1 lladdr " + m3},
		},
		"a host of the other family, one without an address, and one without a MAC": {
			eps: []directory.Endpoint{peer("b", "2001:db8::2", "e", m2, 1, "10.0.0.2"), peer("c", "", "e", m2, 2, "10.0.0.2"), peer("d", "192.0.2.4", "e", "x", 3, "10.0.0.2")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got, want := text(forwarding(at, "me", c.eps)), strings.Join(c.want, "\n"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// TestForwardingOfTheLast: of two records of one address the later one is programmed.
func TestForwardingOfTheLast(t *testing.T) {
	at := place{bridge: "wf-1", vxlan: "wx-1", local: netip.MustParseAddr("192.0.2.1")}
	const mac = "02:00:00:00:00:02"
	want := forwarding(at, "me", []directory.Endpoint{peer("b", "192.0.2.2", "old", mac, 4, "10.0.0.2"), peer("c", "192.0.2.3", "new", mac, 5, "10.0.0.2")})
	got := text(kernel.DiffForwarding(want, kernel.Forwarding{}).Add)
	if !strings.Contains(got, "fdb "+mac+" dev wx-1 dst 192.0.2.3") || strings.Contains(got, "fdb "+mac+" dev wx-1 dst 192.0.2.2") {
		t.Errorf("programmed\n%s", got)
	}
}

func own(e directory.Endpoint) directory.Endpoint {
	e.Own = true
	return e
}

// TestShortcuts: only containers that are in one place each have short cuts.
func TestShortcuts(t *testing.T) {
	full := place{bridge: "wf-1", vxlan: "wx-1", local: netip.MustParseAddr("192.0.2.1"), links: map[string]int{"wx-1": 5, "wv-e": 7, "wv-f": 8}}
	full.running = map[string]bool{"wx-1": true, "wv-e": true, "wv-f": true}
	noTunnel, early := full, full
	noTunnel.links = map[string]int{"wv-e": 7}
	early.running = map[string]bool{"wx-1": true}
	const m2, m3, m4 = "02:00:00:00:00:02", "02:00:00:00:00:03", "02:00:00:00:00:04"
	here, there := peer("me", "192.0.2.1", "e", m2, 1), peer("b", "192.0.2.2", "x", m3, 2)
	for name, c := range map[string]struct {
		at   place
		eps  []directory.Endpoint
		want string
	}{
		"nobody":                           {full, nil, "[] []"},
		"one here, one there":              {full, []directory.Endpoint{here, there}, "[" + m2 + " wv-e 7] [" + m3 + "]"},
		"no tunnel":                        {noTunnel, []directory.Endpoint{here, there}, "[] []"},
		"a port that does not forward yet": {early, []directory.Endpoint{here, there}, "[] [" + m3 + "]"},
		"a link that is gone":              {full, []directory.Endpoint{peer("me", "192.0.2.1", "g", m2, 1), there}, "[] [" + m3 + "]"},
		"hosts":                            {full, []directory.Endpoint{own(here), own(there)}, "[] []"},
		"a host's MAC":                     {full, []directory.Endpoint{here, there, own(peer("c", "192.0.2.3", "y", m3, 3))}, "[" + m2 + " wv-e 7] []"},
		"it comes here":                    {full, []directory.Endpoint{peer("b", "192.0.2.2", "x", m2, 1), here}, "[" + m2 + " wv-e 7] []"},
		"two here with one MAC":            {full, []directory.Endpoint{here, peer("me", "192.0.2.1", "f", m2, 2), there}, "[] [" + m3 + "]"},
		"two there with one MAC":           {full, []directory.Endpoint{here, there, peer("c", "192.0.2.3", "y", m3, 4)}, "[" + m2 + " wv-e 7] [" + m3 + "]"},
		"out of reach, and no MAC":         {full, []directory.Endpoint{here, peer("b", "2001:db8::2", "x", m3, 1), peer("c", "", "y", m4, 1), peer("d", "192.0.2.4", "z", "x", 1)}, "[" + m2 + " wv-e 7] []"},
	} {
		t.Run(name, func(t *testing.T) {
			s := shortcuts("n", c.at, "me", c.eps)
			var here []string
			for _, x := range s.Here {
				here = append(here, fmt.Sprintf("%s %s %d", x.MAC, x.Link.Name, x.Link.Index))
			}
			if got := fmt.Sprintf("%v %v", here, s.There); got != c.want || s.Network != "n" {
				t.Errorf("got %s of network %q, want %s", got, s.Network, c.want)
			}
		})
	}
}

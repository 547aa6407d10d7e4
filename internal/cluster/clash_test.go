package cluster_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/ownership"
)

func TestClashes(t *testing.T) {
	host := func(id, name, addr string) cluster.HostView {
		h := cluster.HostView{ID: ownership.Host(id), Name: name, Me: id == "me"}
		if addr != "" {
			h.Address = netip.MustParseAddr(addr)
		}
		return h
	}
	removed := host("x", "gone", "192.0.2.1")
	removed.Removed = true
	other, here := host("b", "h2", "192.0.2.2"), host("me", "h1", "192.0.2.1")
	other.Port, here.Port = 9999, 8476
	local := map[netip.Addr]string{netip.MustParseAddr("127.0.0.1"): "lo", netip.MustParseAddr("192.0.2.1"): "eth0"}
	for name, c := range map[string]struct {
		hosts []cluster.HostView
		want  [][]string // words of each clash
	}{
		"each its own":       {hosts: []cluster.HostView{host("me", "h1", "192.0.2.1"), host("b", "h2", "192.0.2.2")}},
		"nobody":             {},
		"unknown addresses":  {hosts: []cluster.HostView{host("me", "h1", ""), host("b", "h2", "")}},
		"with a removed one": {hosts: []cluster.HostView{host("me", "h1", "192.0.2.1"), removed}},
		"this host and another": {
			hosts: []cluster.HostView{host("me", "h1", "192.0.2.1"), host("b", "h2", "192.0.2.1")},
			want:  [][]string{{"h1 and h2", "192.0.2.1", "WEFT_ADVERTISE", "weft host rm"}},
		},
		"two others, in two forms of one address": {
			hosts: []cluster.HostView{host("me", "h1", "192.0.2.1"), host("b", "h2", "192.0.2.7"), host("c", "h3", "::ffff:192.0.2.7")},
			want:  [][]string{{"h2 and h3", "192.0.2.7"}},
		},
		"a machine that was set up anew": {
			hosts: []cluster.HostView{host("me", "h1", "192.0.2.1"), host("b", "h2", "192.0.2.7"), host("c", "h2", "192.0.2.7")},
			want:  [][]string{{"h2 (id b) and h2 (id c)"}},
		},
		"an address of this host": {
			hosts: []cluster.HostView{host("me", "h1", "192.0.2.1"), host("b", "h2", "127.0.0.1")},
			want:  [][]string{{"127.0.0.1, which h2 advertises", "(h1, device lo)", "WEFT_ADVERTISE"}},
		},
		"another family": {
			hosts: []cluster.HostView{host("me", "h1", "192.0.2.1"), host("b", "h2", "2001:db8::2")},
			want:  [][]string{{"h2 is reached at 2001:db8::2", "192.0.2.1", "WEFT_ADVERTISE"}},
		},
		"another port": {
			hosts: []cluster.HostView{here, other},
			want:  [][]string{{"h2", "9999", "8476", "WEFT_VXLAN_PORT"}},
		},
		"an address that it has not": {
			hosts: []cluster.HostView{host("me", "h1", "192.0.2.99"), host("b", "h2", "192.0.2.2")},
			want:  [][]string{{"this host advertises 192.0.2.99", "WEFT_ADVERTISE"}},
		},
		"two at once": {
			hosts: []cluster.HostView{host("b", "h2", "127.0.0.1"), host("c", "h3", "127.0.0.1"), host("d", "h4", "192.0.2.9"), host("e", "", "192.0.2.9")},
			want:  [][]string{{"h2 and h3 advertise,", "this host"}, {"h4 and (id e)", "192.0.2.9"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := cluster.Clashes(c.hosts, local)
			if len(got) != len(c.want) {
				t.Fatalf("%v", got)
			}
			for i, words := range c.want {
				for _, w := range words {
					if !strings.Contains(got[i].String(), w) {
						t.Errorf("%q lacks %q", got[i], w)
					}
				}
			}
		})
	}
}

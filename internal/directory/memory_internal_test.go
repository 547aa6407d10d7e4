package directory

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// TestPeersOf: each other host once, and none of which nobody knows where it is.
func TestPeersOf(t *testing.T) {
	hosts := make(map[ownership.Host]cluster.HostView)
	seen := make(map[string]store.KV)
	host := func(id, addr string, removed bool) {
		h := cluster.HostView{ID: ownership.Host(id), Removed: removed}
		if addr != "" {
			h.Address = netip.MustParseAddr(addr)
		}
		hosts[h.ID] = h
		for _, ep := range []string{"1", "2"} {
			key := hostKeys("net", h.ID) + ep
			seen[key] = store.KV{Key: key}
		}
	}
	host("me", "192.0.2.1", false)
	host("b", "192.0.2.3", false)
	host("c", "192.0.2.2", false)
	host("nowhere", "", false)
	host("gone", "192.0.2.9", true)
	hosts["idle"] = cluster.HostView{ID: "idle", Address: netip.MustParseAddr("192.0.2.8")}
	seen[hostKeys("net", "stranger")+"1"] = store.KV{}
	if got := fmt.Sprint(peersOf(seen, hosts, "me")); got != "[192.0.2.2 192.0.2.3]" {
		t.Error(got)
	}
	for i := range 2 * mostPeers {
		host(fmt.Sprint("h", i), netip.AddrFrom4([4]byte{10, 0, byte(i / 250), byte(1 + i%250)}).String(), false)
	}
	got := peersOf(seen, hosts, "me")
	if len(got) != mostPeers || !slices.IsSortedFunc(got, netip.Addr.Compare) {
		t.Errorf("%d are remembered", len(got))
	}
}

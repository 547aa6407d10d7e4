package overlay_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/kernel"
)

// TestOwnAddressIsLost: this host was removed while it ran, and another one has the address
// of its bridge by now. It takes another, tells the hosts and its containers, and nobody
// sends it the other's frames.
func TestOwnAddressIsLost(t *testing.T) {
	_, a, b := two(t)
	a.container("c", "a", "10.60.0.5/24")
	b.container("d", "b", "10.60.0.6/24")
	old := driver.MAC(a.Networks()[0].Shared.MACSeed(), netip.MustParseAddr("10.60.0.201")).String()
	b.until("a's own address", b.programs("neigh 10.60.0.201", old))

	a.book.lose()
	_, err := a.Reconcile(t.Context(), driver.Changes)
	a.must(err)
	now := driver.MAC(a.Networks()[0].Shared.MACSeed(), netip.MustParseAddr("10.60.0.221"))
	b.until("a's new address", b.programs("neigh 10.60.0.221", now.String()))
	b.until("the end of the old one", not(b.programs("neigh 10.60.0.201")))
	b.until("the end of the old way", not(b.programs("fdb "+old)))
	if a.programs("10.60.0.201")() || !a.programs("10.60.0.221")() {
		t.Errorf("the bridge:\n%s", a.kernel.Dump())
	}
	if !a.programs("wv-"+id("c")[:12], "master=wf-"+id("a")[:12])() {
		t.Errorf("the container is not in the new bridge:\n%s", a.kernel.Dump())
	}
	if !slices.ContainsFunc(a.kernel.Announced(), func(n kernel.Neighbor) bool {
		return n.IP.String() == "10.60.0.1" && n.MAC.String() == now.String()
	}) {
		t.Errorf("the containers did not hear of the gateway's new MAC address: %v", a.kernel.Announced())
	}
	if report, err := a.Reconcile(t.Context(), driver.Changes); err != nil || len(report.Repaired) > 0 {
		t.Errorf("it does not come to rest: %v %v", report, err)
	}
}

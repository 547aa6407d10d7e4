package overlay_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/store"
)

// remembers waits until the journal has a host of a network.
func (h *host) remembers(uuid, vtep string) {
	h.Helper()
	h.until("the journal has "+vtep, func() bool {
		found := false
		h.must(h.journal.Each("directory-peers", func(key string, value []byte) error {
			found = found || key == uuid && strings.Contains(string(value), `"`+vtep+`"`)
			return nil
		}))
		return found
	})
}

const everybody = "fdb 00:00:00:00:00:00"

// TestBootWithoutStore: a host that was off reaches the others while the store is away,
// by way of all that it knew. Nothing that it knew of an address is taken for true, and
// nothing of it stays when the store is back.
func TestBootWithoutStore(t *testing.T) {
	_, a, b := two(t)
	c := newHost(t, 3, a.store.(*store.Fake).Peer())
	c.ready()
	c.must(c.CreateNetwork(t.Context(), network("e")))
	mine := a.container("c", "a", "10.60.0.5/24")
	moves := b.container("d", "b", "10.60.0.6/24")
	c.container("f", "e", "10.60.0.9/24")
	uuid := a.network("a").Shared.UUID
	a.remembers(uuid, "192.0.2.2")
	a.remembers(uuid, "192.0.2.3")
	a.stop() // and off
	// b's address is on c before a is back.
	b.must(b.Leave(t.Context(), id("b"), moves.ID))
	b.must(b.DeleteEndpoint(t.Context(), id("b"), moves.ID))
	c.container("1", "e", "10.60.0.6/24")
	// The address of b's host is one of a's own by then.
	b.moveTo("192.0.2.22")
	c.until("b moved", c.programs(everybody, "dst 192.0.2.22"))
	a.store.(*store.Fake).SetDown(true)
	a.boot()
	a.kernel.AddDevice(kernel.Link{Name: "eth1", Up: true, MTU: 1500}, netip.MustParsePrefix("192.0.2.2/32"))
	a.start()
	a.join(mine)
	a.until("c as it was", a.programs(everybody, "dst 192.0.2.3"))
	for _, words := range [][]string{{"neigh 10.60.0.6"}, {"fdb " + moves.MAC}, {"neigh 10.60.0.9"}, {"dst 192.0.2.2"}} {
		if a.programs(words...)() {
			t.Errorf("old news are taken for true: %q:\n%s", words, a.kernel.Dump())
		}
	}
	a.store.(*store.Fake).SetDown(false)
	a.until("the moved address on c", a.programs("fdb "+moves.MAC, "dst 192.0.2.3"))
	a.until("b at its new address", a.programs(everybody, "dst 192.0.2.22"))
}

// TestBootStale: a host of which the memory says that it has the network, and that left
// it meanwhile, is no destination any more once the store was seen.
func TestBootStale(t *testing.T) {
	_, a, b := two(t)
	mine := a.container("c", "a", "10.60.0.5/24")
	b.container("d", "b", "10.60.0.6/24")
	a.remembers(a.network("a").Shared.UUID, "192.0.2.2")
	a.stop()
	b.must(b.DeleteNetwork(t.Context(), id("b")))
	b.until("b left", func() bool {
		n, ok := b.directory.Network(a.network("a").Shared.UUID)
		return ok && len(n.Hosts) == 1
	})
	a.store.(*store.Fake).SetDown(true)
	a.boot()
	a.start()
	a.join(mine)
	a.until("b as it was", a.programs(everybody, "dst 192.0.2.2"))
	a.store.(*store.Fake).SetDown(false)
	a.until("b is gone", not(a.programs("dst 192.0.2.2")))
	if !a.programs("neigh 10.60.0.5", mine.MAC)() {
		t.Errorf("its own container is not known:\n%s", a.kernel.Dump())
	}
}

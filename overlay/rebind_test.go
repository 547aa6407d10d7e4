package overlay_test

import (
	"testing"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/store"
)

// nameless makes a network that the cluster knows by its UUID only.
func (h *host) nameless(letter string) driver.Network {
	h.Helper()
	n := network(letter)
	delete(n.Options, "net")
	h.must(h.CreateNetwork(h.Context(), n))
	return h.network(letter)
}

func (h *host) network(letter string) driver.Network {
	h.Helper()
	for _, n := range h.Networks() {
		if n.ID == id(letter) {
			return n
		}
	}
	h.Fatalf("%s has no network %s", h.name, letter)
	return driver.Network{}
}

// bridgeMAC is the hardware address of the bridge, as the other hosts know it.
func (h *host) bridgeMAC(uuid string) string {
	h.Helper()
	var mac string
	h.until("the host's own address to be known", func() bool {
		for _, e := range h.directory.Endpoints(uuid) {
			if e.Own && e.Host == h.cluster.Me() {
				mac = e.MAC
			}
		}
		return mac != ""
	})
	return mac
}

// TestRebind: a network with a container on it becomes another one of the cluster, also
// over a restart, and what the container knows stays.
func TestRebind(t *testing.T) {
	fake := store.NewFake()
	a, b := newHost(t, 1, fake.Peer()), newHost(t, 2, fake.Peer())
	a.ready()
	b.ready()
	mine, winner := a.nameless("a"), b.nameless("b")
	ep := a.container("1", "a", "10.60.0.2/24")
	b.container("2", "b", "10.60.0.3/24")
	before := a.bridgeMAC(mine.Shared.UUID)
	joined, err := a.directory.Join(t.Context(), winner.Shared.UUID)
	a.must(err)
	if joined.UUID != winner.Shared.UUID {
		t.Fatalf("joined %+v", joined)
	}
	to := driver.Shared{UUID: winner.Shared.UUID, VNI: winner.Shared.VNI, MTU: mine.Shared.MTU}
	a.must(a.Rebind(t.Context(), id("a"), to))
	a.must(a.Rebind(t.Context(), id("a"), to)) // again is success
	check := func(when string) {
		t.Helper()
		a.until("a has b's container "+when, a.programs("10.60.0.3"))
		b.until("b has a's container "+when, b.programs("10.60.0.2"))
		if after := a.bridgeMAC(winner.Shared.UUID); after != before {
			t.Errorf("%s: the gateway's hardware address was %s and is %s", when, before, after)
		}
		b.until("b has the container's hardware address "+when, b.programs(ep.MAC))
		tunnels, err := a.kernel.VXLANs()
		if err != nil || len(tunnels) != 1 || tunnels[0].VNI != winner.Shared.VNI {
			t.Errorf("%s: tunnels %+v, not with VNI %d, %v", when, tunnels, winner.Shared.VNI, err)
		}
	}
	check("at once")
	a.until("the loser is gone from the store", func() bool {
		_, ok := a.directory.Network(mine.Shared.UUID)
		return !ok
	})
	a.stop()
	a.start()
	a.ready()
	_, err = a.Reconcile(t.Context(), driver.Full)
	a.must(err)
	check("after a restart")
	// A container that starts now is an endpoint of the same network.
	a.container("3", "a", "10.60.0.4/24")
	b.until("b has the new one", b.programs("10.60.0.4"))
}

// TestAbsent: a user's removal leaves a mark that lasts; weft's own leaves none.
func TestAbsent(t *testing.T) {
	_, a, b := two(t)
	uuid := a.network("a").Shared.UUID
	marks := func(want int, when string) {
		t.Helper()
		if got := b.Absent(); len(got) != want || want > 0 && got[uuid].At.IsZero() {
			t.Errorf("%s: marks %v", when, got)
		}
	}
	done := b.Unmarked(uuid)
	b.must(b.DeleteNetwork(t.Context(), id("b")))
	done()
	marks(0, "weft's own removal")
	b.must(b.CreateNetwork(t.Context(), network("b")))
	b.must(b.DropNetwork(t.Context(), id("b")))
	marks(0, "the engine forgot it")
	b.must(b.CreateNetwork(t.Context(), network("b")))
	b.must(b.DeleteNetwork(t.Context(), id("b")))
	marks(1, "the user's")
	b.must(b.DeleteNetwork(t.Context(), id("b"))) // again is success
	b.stop()
	b.start()
	b.ready()
	marks(1, "after a restart")
	b.must(b.CreateNetwork(t.Context(), network("c")))
	marks(0, "the user has it back")
	b.must(b.DeleteNetwork(t.Context(), id("c")))
	marks(1, "removed again")
	b.must(b.ForgetAbsent(t.Context(), uuid, "unknown"))
	b.must(b.ForgetAbsent(t.Context(), uuid))
	marks(0, "forgotten")
	b.must(b.CreateNetwork(t.Context(), network("c")))
	b.must(b.DeleteNetwork(t.Context(), id("c")))
	b.must(b.Reset(t.Context()))
	marks(0, "after a reset")
}

package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/store"
	"github.com/weft-net/weft/ipam"
)

// frozen waits until hosts are.
func frozen(t *testing.T, hosts ...*member) {
	t.Helper()
	for _, m := range hosts {
		eventually(t, m.name+" is frozen", func() bool { return m.cluster.Verdict().Standing == cluster.Frozen })
	}
}

// use takes n addresses and notes them.
func (m *member) use(pool string, n int, seen map[netip.Addr]string) {
	m.tb.Helper()
	for range n {
		a := m.get(pool)
		if other := seen[a]; other != "" {
			m.tb.Fatalf("%s is %s's, and was given on %s", a, other, m.name)
		}
		seen[a] = m.name
	}
}

// recovers says `weft store recover` until it holds: another host may freeze the cluster
// once more, because it saw a recovery that the store has lost.
func (m *member) recovers(all ...*member) {
	m.tb.Helper()
	m.tb.Cleanup(func() {
		for _, x := range all {
			m.tb.Logf("%s: %+v waits for %v", x.name, x.cluster.Pass(), x.cluster.WaitsFor())
		}
	})
	eventually(m.tb, "all are members again", func() bool {
		if m.cluster.Verdict().Standing == cluster.Frozen {
			_ = m.cluster.Recover(m.tb.Context())
		}
		return !slices.ContainsFunc(all, func(x *member) bool { return x.cluster.Ready() != nil })
	})
}

// byHand writes a record as an operator, or somebody hostile, may.
func byHand(t *testing.T, f *store.Fake, key, value string) {
	t.Helper()
	res, err := f.Commit(context.Background(), store.Txn{Then: []store.Op{store.Put(key, []byte(value))}})
	if err != nil || !res.OK {
		t.Fatal(res, err)
	}
}

// A backup whose revisions are higher than what was seen (they can be made so, and others
// may write) is known by the pools that it lacks, by a host that runs and by one that
// starts. The host that comes back first must not make the pool anew, nor join what
// another one made there.
func TestClusterRestoredStoreOfAHigherRevision(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"running", "starting", "another pool"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			fake := store.NewFake()
			sa, sb := fake.Peer(), fake.Peer()
			a, b := newMember(t, "a", sa), newMember(t, "b", sb)
			a.awaitKnows(1)
			b.awaitKnows(1)
			backup := fake.Clone()
			pa, pb := a.pool("10.1.0.0/27"), b.pool("10.1.0.0/27")
			seen := make(map[netip.Addr]string)
			a.use(pa, 3, seen)
			b.use(pb, 2, seen)
			sa.SetDown(true)
			sb.SetDown(true)
			if how != "running" {
				b.halt()
			}
			fake.Restore(backup)
			for range 1000 {
				byHand(t, fake, "zzz", "")
			}
			if how == "another pool" {
				c := newMember(t, "c", fake.Peer())
				c.pool("10.1.0.0/27")
				c.halt()
			}
			sb.SetDown(false)
			if how != "running" {
				b.start()
			}
			frozen(t, b)
			sa.SetDown(false)
			frozen(t, a)
			if how == "another pool" {
				return
			}
			b.recovers(a, b)
			b.use(pb, 5, seen)
			a.use(pa, 5, seen)
			if len(a.Conflicts())+len(b.Conflicts()) > 0 {
				t.Errorf("in conflict: %v and %v", a.Conflicts(), b.Conflicts())
			}
		})
	}
}

// Two hosts that tell a recovering store of two lives of a pool cannot both be right: the
// one that is overtaken goes on with conflicts, and does not freeze the cluster for ever.
func TestClusterRecoveryOfTwoLivesOfAPool(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	sa := fake.Peer()
	a := newMember(t, "a", sa)
	c := newMember(t, "c", fake.Peer())
	a.awaitKnows(1)
	c.awaitKnows(1)
	backup := fake.Clone()
	pa := a.pool("10.1.0.0/27")
	a.get(pa)
	sa.SetDown(true)
	for range 1000 { // before c can see a lower revision
		backup.Apply(store.Txn{Then: []store.Op{store.Put("zzz", nil)}})
	}
	fake.Restore(backup)
	pc := c.pool("10.1.0.0/27")
	c.get(pc)
	sa.SetDown(false)
	frozen(t, a, c)
	a.recovers(a, c)
	stays(t, "both are members", 500*time.Millisecond, func() bool { return a.cluster.Ready() == nil && c.cluster.Ready() == nil })
	a.get(pa)
	c.get(pc)
}

// All hosts are up when `weft store recover` is said on one that was off while another one
// joined, and all have started since the store was wiped: nobody knows b but b.
func TestClusterRecoveryWaitsForHostsThatShowThemselves(t *testing.T) {
	t.Parallel()
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("late %v", late), func(t *testing.T) {
			t.Parallel()
			fake := store.NewFake()
			a := newMember(t, "a", fake.Peer())
			a.awaitMember()
			pa := a.pool("10.1.0.0/27")
			seen := make(map[netip.Addr]string)
			a.use(pa, 2, seen)
			a.halt()
			sb := newHooked(fake)
			sb.latency = 20 * time.Millisecond
			b := newMember(t, "b", sb)
			b.awaitMember()
			b.use(b.pool("10.1.0.0/27"), 10, seen)
			b.halt()
			fake.Wipe()
			a.start()
			frozen(t, a)
			if !late { // else it shows itself when the recovery has begun
				b.start()
				frozen(t, b)
				eventually(t, "b shows itself", func() bool {
					return a.cluster.Connected(b.cluster.Me()) && len(records(t, fake, "self/"+string(b.cluster.Me()))) == 1
				})
			}
			id := b.cluster.Me()
			if err := a.cluster.Recover(t.Context()); err != nil {
				t.Fatal(err)
			}
			if late {
				b.start()
			}
			a.awaitMember()
			b.awaitMember()
			if b.cluster.Me() != id {
				t.Fatalf("b has a new id")
			}
			a.use(pa, 10, seen)
			if len(a.Conflicts())+len(b.Conflicts()) > 0 {
				t.Errorf("in conflict: %v and %v", a.Conflicts(), b.Conflicts())
			}
		})
	}
}

// A host that starts while the cluster is frozen or recovers is connected: it cannot be
// removed, whatever the operator says.
func TestClusterRemovalOfALivingHostInARecovery(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	lives := func(m *member) { m.answers = func(netip.Addr) bool { return true } }
	a, b, c := newMember(t, "a", fake.Peer(), lives), newMember(t, "b", fake.Peer(), lives), newMember(t, "c", fake.Peer(), lives)
	b.get(b.pool("10.1.0.0/27"))
	for _, m := range []*member{a, b, c} {
		m.awaitMember()
		m.awaitKnows(2)
	}
	c.halt()
	fake.Wipe()
	frozen(t, a, b)
	if err := a.cluster.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	waits := func() bool { return b.cluster.Verdict().Standing == cluster.Waiting }
	eventually(t, "b waits", waits)
	b.halt()
	fake.ExpireLeases()
	b.start()
	eventually(t, "b waits again", waits)
	eventually(t, "b shows itself", func() bool { return a.cluster.Connected(b.cluster.Me()) })
	if err := a.remove("b"); !errors.Is(err, cluster.ErrConnected) {
		t.Fatalf("b is removed although it lives: %v", err)
	}
}

// A backup of before the removal of a host gives it back what it had: a recovery removes
// it once more.
func TestClusterRecoveryOfABackupBeforeARemoval(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	a, b, x := newMember(t, "a", fake.Peer()), newMember(t, "b", fake.Peer()), newMember(t, "x", fake.Peer())
	pa := a.pool("10.1.0.0/27")
	b.pool("10.1.0.0/27")
	px := x.pool("10.1.0.0/27")
	x.pool("10.2.0.0/27") // it is there alone
	for range 10 {
		x.get(px)
	}
	for _, m := range []*member{a, b, x} {
		m.awaitKnows(2)
	}
	backup := fake.Clone()
	x.halt()
	id := x.cluster.Me()
	if err := a.remove("x"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all know that x is removed", func() bool {
		return !slices.ContainsFunc([]*member{a, b}, func(m *member) bool {
			known, _, err := cluster.LoadIdentity(m.journal, cluster.Fingerprint{})
			return err != nil || !slices.Contains(known.Removed, id)
		})
	})
	seen := make(map[netip.Addr]string)
	a.use(pa, 2, seen)
	fake.Restore(backup)
	frozen(t, a, b)
	a.recovers(a, b)
	if n := ownedBy(t, fake, id); n > 0 {
		t.Errorf("the removed host owns %d addresses", n)
	}
	eventually(t, "the removed host is in no pool", func() bool { return len(a.cluster.PoolsOf(id)) == 0 })
	a.use(pa, 20, seen) // of 29 without the gateway, 10 of which were x's
}

// A new host that comes to a wiped store waits for the recovery of the cluster that is
// there, as long as any of its hosts has seen the store.
func TestClusterFreshHostOnAWipedStore(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	a, b := newMember(t, "a", fake.Peer()), newMember(t, "b", fake.Peer())
	a.awaitKnows(1)
	b.awaitKnows(1)
	pa, pb := a.pool("10.1.0.0/27"), b.pool("10.1.0.0/27")
	seen := make(map[netip.Addr]string)
	a.use(pa, 2, seen)
	b.use(pb, 2, seen)
	fake.Wipe()
	frozen(t, a, b)
	eventually(t, "the store knows that there is a cluster", func() bool { return len(records(t, fake, "cluster")) == 1 })
	c := newMember(t, "c", fake.Peer())
	frozen(t, c)
	if _, err := c.RequestPool(t.Context(), ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: prefix("10.1.0.0/27")}); !errors.Is(err, ipam.ErrStore) {
		t.Errorf("a pool of c: %v", err)
	}
	a.recovers(a, b, c)
	pc := c.pool("10.1.0.0/27")
	a.use(pa, 4, seen)
	b.use(pb, 4, seen)
	c.use(pc, 4, seen)
}

// Of two recoveries of stores that did not know of each other none counts for the other:
// who told the first one has to tell the second one too.
func TestClusterRecoveryOfABackupAfterAWipe(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	sc := fake.Peer()
	a, b, c := newMember(t, "a", fake.Peer()), newMember(t, "b", fake.Peer()), newMember(t, "c", sc)
	seen := make(map[netip.Addr]string)
	pools := map[*member]string{}
	for _, m := range []*member{a, b, c} {
		pools[m] = m.pool("10.1.0.0/24")
		m.use(pools[m], 5, seen)
	}
	for _, m := range []*member{a, b, c} {
		m.awaitKnows(2)
	}
	backup := fake.Clone()
	sc.SetDown(true)
	fake.Wipe()
	frozen(t, a, b)
	if err := a.cluster.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a and b wait for c", func() bool {
		return a.cluster.Verdict().Standing == cluster.Waiting && b.cluster.Verdict().Standing == cluster.Waiting
	})
	fake.Restore(backup)
	sc.SetDown(false)
	frozen(t, a, b, c)
	c.recovers(a, b, c)
	for _, m := range []*member{a, b, c} {
		m.use(pools[m], 20, seen)
	}
}

// A host whose word that it has told everything did not get through has to tell the
// next recovery again.
func TestClusterToldOnlyTheLastRecovery(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	sa, sb := newHooked(fake), fake.Peer()
	a, b := newMember(t, "a", sa), newMember(t, "b", sb)
	pa, pb := a.pool("10.1.0.0/24"), b.pool("10.1.0.0/24")
	seen := make(map[netip.Addr]string)
	a.use(pa, 5, seen)
	b.use(pb, 1, seen)
	a.awaitKnows(1)
	b.awaitKnows(1)
	var tries atomic.Int64
	begins := func(txn store.Txn) bool {
		return slices.ContainsFunc(txn.Then, func(op store.Op) bool { return op.Key == "cluster" })
	}
	sa.onCommit("back/", func(_ context.Context, txn store.Txn, commit do) (store.Result, error) {
		if begins(txn) {
			return commit()
		}
		tries.Add(1)
		return store.Result{}, store.ErrDown
	})
	sb.SetDown(true)
	fake.Wipe()
	frozen(t, a)
	if err := a.cluster.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a says that it has told", func() bool { return tries.Load() > 0 })
	fake.Wipe()
	sb.SetDown(false)
	sa.onCommit("back/", nil)
	frozen(t, a, b)
	b.recovers(a, b)
	b.use(pb, 40, seen)
	a.use(pa, 40, seen)
}

// A recovery that is said on a host that has just come waits for all that the restored
// store knows.
func TestClusterRecoveryFromAFreshHost(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	a, b := newMember(t, "a", fake.Peer()), newMember(t, "b", fake.Peer())
	a.awaitMember()
	b.awaitMember()
	backup := fake.Clone()
	pa, pb := a.pool("10.1.0.0/24"), b.pool("10.1.0.0/24")
	seen := make(map[netip.Addr]string)
	a.use(pa, 3, seen)
	b.use(pb, 3, seen)
	ids := []any{a.cluster.Me(), b.cluster.Me()}
	fake.Restore(backup)
	frozen(t, a, b)
	c := newMember(t, "c", fake.Peer())
	frozen(t, c)
	c.recovers(a, b, c)
	if now := []any{a.cluster.Me(), b.cluster.Me()}; !slices.Equal(ids, now) {
		t.Fatalf("living hosts %v became %v", ids, now)
	}
	c.use(c.pool("10.1.0.0/24"), 20, seen)
	if len(a.Conflicts())+len(b.Conflicts()) > 0 {
		t.Errorf("in conflict: %v and %v", a.Conflicts(), b.Conflicts())
	}
}

// A host that is off while the store is wiped can be removed by its name, although the
// store has forgotten it.
func TestClusterRecoveryWithoutAHost(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	a, b, c := newMember(t, "a", fake.Peer()), newMember(t, "b", fake.Peer()), newMember(t, "c", fake.Peer())
	pa := a.pool("10.1.0.0/24")
	a.get(pa)
	a.awaitKnows(2)
	b.awaitKnows(2)
	c.halt()
	fake.Wipe()
	frozen(t, a, b)
	if err := a.cluster.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a waits for c", func() bool {
		waits := a.cluster.WaitsFor()
		return len(waits) == 1 && a.cluster.Name(waits[0]) == "c"
	})
	if _, err := a.cluster.RemoveHost(t.Context(), cluster.Removal{Name: "nobody"}); !errors.Is(err, cluster.ErrUnknownHost) || !strings.Contains(err.Error(), "there are a, b, c") {
		t.Errorf("c is not named: %v", err)
	}
	if err := a.remove("c"); err != nil {
		t.Fatal(err)
	}
	a.awaitMember()
	b.awaitMember()
}

// A host whose address nobody knows is not taken for one that is off.
func TestClusterHostWithoutAnAddress(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	nowhere := func(m *member) { m.address = netip.Addr{} }
	sa := fake.Peer()
	a, b := newMember(t, "a", sa, nowhere), newMember(t, "b", fake.Peer())
	b.awaitMember()
	eventually(t, "b sees a", func() bool { return b.cluster.Connected(a.cluster.Me()) })
	for _, off := range []bool{false, true} {
		if _, err := b.cluster.RemoveHost(t.Context(), cluster.Removal{Name: "a", PoweredOff: off}); !errors.Is(err, cluster.ErrConnected) {
			t.Errorf("--powered-off %v: %v", off, err)
		}
	}
	sa.SetDown(true)
	fake.ExpireLeases()
	eventually(t, "a's lease ends", func() bool { return !b.cluster.Connected(a.cluster.Me()) })
	if _, err := b.cluster.RemoveHost(t.Context(), cluster.Removal{Name: "a"}); !errors.Is(err, cluster.ErrConnected) || !strings.Contains(err.Error(), "--powered-off") {
		t.Errorf("nobody can say whether it lives: %v", err)
	}
	if err := b.remove("a"); err != nil {
		t.Fatal(err)
	}
}

// A host that keeps nothing of its cluster joins the one of another store; one that has
// a network does not.
func TestClusterOfAnotherStore(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a", store.NewFake())
	p := a.pool("10.1.0.0/24")
	a.get(p)
	a.halt()
	other := store.NewFake()
	b := newMember(t, "b", other)
	b.awaitMember()
	a.store = other
	a.start()
	eventually(t, "a sees a foreign store", func() bool { return a.cluster.Verdict().Standing == cluster.Foreign })
	a.get(p)
	old := a.cluster.Me()
	if err := a.ReleasePool(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a joins", func() bool { return a.cluster.Ready() == nil && a.cluster.Me() != old })
	a.get(a.pool("10.1.0.0/24"))
}

package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
	"github.com/weft-net/weft/ipam"
)

// do is how a hook commits.
type do = func() (store.Result, error)

// Networks of Swarm and of one engine.
const swarmNetwork = "k7qf3zj1x0w9v8u7t6s5r4q3p"

var localNetwork = strings.Repeat("ab", 32)

// A transaction that was sent under an older id must neither bring the host down nor
// count for its new id.
func TestClusterTaskOutlivesItsID(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	sa := newHooked(fake)
	a, b := newMember(t, "a", sa), newMember(t, "b", fake.Peer())
	pa := a.pool("10.1.0.0/16")
	b.pool("10.1.0.0/16")
	a.get(pa)
	hold := newGate(t)
	sa.onCommit("own/", func(_ context.Context, _ store.Txn, do do) (store.Result, error) {
		if hold.pass() {
			return store.Result{}, store.ErrDown
		}
		return do()
	})
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	asking.Go(func() {
		_, _ = a.RequestAddress(ctx, ipam.AddressRequest{PoolID: pa, Address: netip.MustParseAddr("10.1.200.5")})
	})
	hold.await(t, "a transaction is out")
	cancel()
	asking.Wait()
	old := a.cluster.Me()
	if err := b.remove("a"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a has a new id", func() bool { return a.cluster.Me() != old })
	hold.open()
	a.awaitMember()
	a.get(pa)
	a.halt() // what was out has come back
}

// An ask that ends after its network was removed must not bring the host down, and the
// pool must be left all the same.
func TestClusterAskOutlivesItsNetwork(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	sb := fake.Peer()
	a, b := newMember(t, "a", fake.Peer()), newMember(t, "b", sb)
	pb, pa := b.pool("10.1.0.0/28"), a.pool("10.1.0.0/28")
	for range 13 {
		b.get(pb)
	}
	sb.SetDown(true) // b does not answer
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	asking.Go(func() { _, _ = a.RequestAddress(ctx, ipam.AddressRequest{PoolID: pa}) })
	eventually(t, "b is asked", func() bool { return len(records(t, fake, "ask/")) > 0 })
	cancel()
	asking.Wait()
	if err := a.ReleasePool(t.Context(), pa); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the ask ends and the pool is left", func() bool { return len(records(t, fake, "ask/")) == 0 && !a.inside("10.1.0.0/28") })
	a.halt()
}

// When the store is restored again while its recovery waits for a host, that host must
// not be handed what others told the store in the first recovery.
func TestClusterStoreIsRestoredDuringItsRecovery(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	a, b := newMember(t, "a", fake.Peer()), newMember(t, "b", fake.Peer())
	pa, pb := a.pool("10.1.0.0/24"), b.pool("10.1.0.0/24")
	a.awaitKnows(1)
	b.awaitKnows(1)
	backup := fake.Clone()
	seen := make(map[netip.Addr]bool)
	for range 60 {
		seen[a.get(pa)] = true
	}
	b.halt()
	for range 2 {
		fake.Restore(backup)
		eventually(t, "a is frozen", func() bool { return a.cluster.Verdict().Standing == cluster.Frozen })
		if err := a.cluster.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a waits for b", func() bool { return a.cluster.Verdict().Standing == cluster.Waiting })
	}
	b.start()
	a.awaitMember()
	b.awaitMember()
	for range 100 {
		if x := b.get(pb); seen[x] {
			t.Fatalf("%s is a's", x)
		}
	}
}

// A pool that a refused request made in the end must not stay in the cluster for ever.
func TestClusterRefusedRequestLeavesNoPool(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%v", restart), func(t *testing.T) {
			t.Parallel()
			fake := store.NewFake()
			sa := newHooked(fake)
			a := newMember(t, "a", sa)
			a.awaitMember()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var late store.Txn
			sa.onCommit("pools/", func(_ context.Context, txn store.Txn, _ do) (store.Result, error) {
				late = txn
				cancel()
				return store.Result{}, store.ErrUnknown
			})
			if _, err := a.RequestPool(ctx, ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: prefix("10.1.0.0/24")}); !errors.Is(err, ipam.ErrStore) {
				t.Fatal(err)
			}
			sa.onCommit("pools/", nil)
			if restart {
				a.halt()
			}
			if res, err := fake.Commit(t.Context(), late); err != nil || !res.OK {
				t.Fatal("the change did not come late", res, err)
			}
			if restart {
				a.start()
			}
			eventually(t, "10.1.0.0/24 is gone", func() bool { return len(records(t, fake, "pools/")) == 0 })
			eventually(t, "the subnet is free", func() bool {
				_, err := a.RequestPool(t.Context(), ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: prefix("10.1.0.0/25")})
				return err == nil
			})
		})
	}
}

// Of two requests for one new subnet, the one that fails must not end the membership
// that the other one got.
func TestClusterFailedRequestLeavesTheOtherItsPool(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	sa := newHooked(fake)
	a := newMember(t, "a", sa)
	a.awaitMember()
	req := ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: prefix("10.1.0.0/24")}
	fails := newGate(t)
	var first atomic.Bool
	sa.onCommit("pools/", func(_ context.Context, _ store.Txn, do do) (store.Result, error) {
		if first.CompareAndSwap(false, true) {
			fails.pass()
			return store.Result{}, store.ErrDown
		}
		return do()
	})
	release, err := a.HoldGate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(release)
	t.Cleanup(release)
	loser, winner := make(chan error, 1), make(chan error, 1)
	var pool ipam.Pool
	go func() {
		_, err := a.RequestPool(context.Background(), req)
		loser <- err
	}()
	fails.await(t, "the first request is out")
	go func() {
		var err error
		pool, err = a.RequestPool(context.Background(), req)
		winner <- err
	}()
	eventually(t, "the second request joined", func() bool { return a.inside("10.1.0.0/24") })
	fails.open()
	if err := <-loser; !errors.Is(err, ipam.ErrStore) {
		t.Fatal(err)
	}
	stays(t, "a is a member", 300*time.Millisecond, func() bool { return a.inside("10.1.0.0/24") })
	release()
	if err := <-winner; err != nil {
		t.Fatal(err)
	}
	a.get(pool.ID)
	if a.View()[0].Cluster == nil || ownedBy(t, fake, a.cluster.Me()) == 0 {
		t.Fatal("the pool is not the cluster's")
	}
}

// An address wished from a record that cannot be read must not keep the host from
// fetching others.
func TestClusterWishInABadRecordHoldsUpNothing(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	a := newMember(t, "a", fake.Peer())
	pa := a.pool("10.1.0.0/16")
	a.get(pa)
	key := cluster.OwnersPrefix(a.View()[0].Cluster.Pool) + "10.1.9.0"
	if _, err := fake.Commit(t.Context(), store.Txn{Then: []store.Op{store.Put(key, []byte(`{"v":99}`))}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a sees it", func() bool { return len(a.View()[0].Cluster.Bad) == 1 })
	if err := a.explicit(pa, "10.1.9.9"); !errors.Is(err, ipam.ErrStore) {
		t.Fatal(err)
	}
	for range 200 {
		a.get(pa)
	}
}

// While the store is down, free addresses must stay usable here: nobody else can have
// them.
func TestClusterGivesNothingAwayWithoutItsStore(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	sa := fake.Peer()
	a, b := newMember(t, "a", sa), newMember(t, "b", fake.Peer())
	pa := a.pool("10.1.0.0/24")
	b.pool("10.1.0.0/24")
	var held []netip.Addr
	for range 120 {
		held = append(held, a.get(pa))
	}
	sa.SetDown(true)
	for _, x := range held {
		if err := a.ReleaseAddress(t.Context(), pa, x); err != nil {
			t.Fatal(err)
		}
	}
	own := a.View()[0].Cluster.Own
	a.Trim()
	if now := a.View()[0].Cluster.Own; now != own {
		t.Fatalf("%d of %d addresses are left", now, own)
	}
	for range held {
		a.get(pa)
	}
}

// With two starts of unknown outcome that happen late, a host must not take itself for
// a copy of itself.
func TestClusterStartsHappenLate(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	sa := fake.Peer()
	sa.Inject(store.FaultNone, store.FaultLater, store.FaultLater)
	a := newMember(t, "a", sa)
	eventually(t, "two starts are out", func() bool { return fake.Held() == 2 })
	fake.Deliver()
	a.awaitMember()
}

// A removal that broke off must not keep the operator from repeating it by name.
func TestClusterRemovalIsRepeated(t *testing.T) {
	t.Parallel()
	_, a, b, sb := unfinishedRemoval(t)
	old := a.cluster.Me()
	sb.onCommit("own/", nil)
	if err := b.remove("a"); err != nil {
		t.Fatal(err)
	}
	if n := ownedBy(t, sb.Fake, old); n > 0 {
		t.Fatalf("the removed host owns %d addresses", n)
	}
}

// A removal that broke off must not be finished on the host's new id when it came back
// meanwhile: its name fits two, and is refused.
func TestClusterUnfinishedRemovalMakesANameAmbiguous(t *testing.T) {
	t.Parallel()
	pa, a, b, sb := unfinishedRemoval(t)
	old := a.cluster.Me()
	a.start()
	eventually(t, "a is back", func() bool { return a.cluster.Me() != old && a.cluster.Ready() == nil })
	back := a.cluster.Me()
	eventually(t, "b sees it", func() bool {
		return b.cluster.Connected(back) && strings.HasPrefix(b.cluster.Name(back), "a ("+string(back)[:8])
	})
	sb.onCommit("own/", nil)
	if err := b.remove("a"); !errors.Is(err, cluster.ErrAmbiguousHost) || !strings.Contains(err.Error(), string(old)) || !strings.Contains(err.Error(), string(back)) {
		t.Fatal(err)
	}
	if err := b.remove(string(old)); err != nil {
		t.Fatal(err)
	}
	if n := ownedBy(t, sb.Fake, old); n > 0 {
		t.Fatalf("the removed host owns %d addresses", n)
	}
	a.get(pa)
	if me := a.cluster.Me(); me != back {
		t.Fatalf("the living host was removed: it is %s by now", me)
	}
}

// unfinishedRemoval has b, with store sb, that could not remove a, which is stopped and
// has the pool pa.
func unfinishedRemoval(t *testing.T) (pa string, a, b *member, sb *hooked) {
	t.Helper()
	fake := store.NewFake()
	sb = newHooked(fake)
	a, b = newMember(t, "a", fake.Peer()), newMember(t, "b", sb)
	pa = a.pool("10.1.0.0/24")
	b.pool("10.1.0.0/24")
	a.get(pa)
	a.halt()
	eventually(t, "a's lease ends", func() bool { return !b.cluster.Connected(a.cluster.Me()) })
	sb.breaks("own/", store.ErrDown)
	if err := b.remove("a"); !errors.Is(err, store.ErrDown) {
		t.Fatal(err)
	}
	eventually(t, "b sees the tombstone", func() bool {
		return slices.ContainsFunc(b.cluster.Hosts(), func(h cluster.HostView) bool { return h.ID == a.cluster.Me() && h.Removed })
	})
	return pa, a, b, sb
}

// A host that ends between its new id and joining its pools again must not hand out
// addresses of a pool of which it is no member.
func TestClusterHostEndsBeforeItsNewIDJoins(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	sa := newHooked(fake)
	a, b := newMember(t, "a", sa), newMember(t, "b", fake.Peer())
	pa, pb := a.pool("10.1.0.0/24"), b.pool("10.1.0.0/24")
	a.get(pa)
	a.halt()
	old := a.cluster.Me()
	if err := b.remove("a"); err != nil {
		t.Fatal(err)
	}
	sa.breaks("pools/", store.ErrDown)
	a.start()
	eventually(t, "a has a new id", func() bool { return a.cluster.Me() != old })
	a.halt()
	sa.onCommit("pools/", nil)
	a.start()
	a.awaitMember()
	held := []netip.Addr{a.get(pa)}
	for range 20 {
		held = append(held, a.get(pa))
	}
	if err := b.ReleasePool(t.Context(), pb); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b leaves the pool", func() bool { return !b.inside("10.1.0.0/24") })
	pb = b.pool("10.1.0.0/24")
	for _, x := range held {
		if err := b.explicit(pb, x.String()); err == nil {
			t.Fatalf("%s has two holders", x)
		}
	}
}

// An address that was granted must not be refused because the news of it is slower than
// the answer.
func TestClusterGrantIsSlowerThanItsAnswer(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	sb := newHooked(fake)
	a, b := newMember(t, "a", fake.Peer()), newMember(t, "b", sb)
	pa, pb := a.pool("10.1.0.0/28"), b.pool("10.1.0.0/28")
	var all []netip.Addr
	for range 13 {
		all = append(all, a.get(pa))
	}
	for _, x := range all {
		if err := a.ReleaseAddress(t.Context(), pa, x); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "b sees a's addresses", func() bool { return b.View()[0].Cluster.Owners[a.cluster.Me()] == 13 })
	news := newGate(t)
	sb.onUpdate(func(prefix string) {
		if strings.HasPrefix(prefix, "own/") {
			news.pass()
		}
	})
	var answers atomic.Int64
	sb.onCommit("ask/", func(_ context.Context, txn store.Txn, do do) (store.Result, error) {
		if txn.Then[0].Delete && answers.Add(1) == 2 {
			news.open() // by then a has said that it does not own the address any more
		}
		return do()
	})
	if err := b.explicit(pb, all[3].String()); err != nil {
		t.Fatal(err)
	}
}

// A store that is down must not look like one in order.
func TestClusterSaysThatItsStoreIsDown(t *testing.T) {
	t.Parallel()
	s := store.NewFake()
	a := newMember(t, "a", s)
	a.awaitMember()
	s.SetDown(true)
	if err := a.cluster.Problem(); !errors.Is(err, store.ErrDown) {
		t.Fatal(err)
	}
	s.SetDown(false)
	eventually(t, "all is well again", func() bool { return a.cluster.Problem() == nil })
}

// Many hosts that make networks at once must not be refused because others were faster.
func TestClusterManyHostsJoinAtOnce(t *testing.T) {
	t.Parallel()
	for _, same := range []bool{true, false} {
		t.Run(fmt.Sprintf("one subnet=%v", same), func(t *testing.T) {
			t.Parallel()
			fake := store.NewFake()
			var hosts []*member
			for i := range 40 {
				s := newHooked(fake)
				s.latency = 2 * time.Millisecond
				hosts = append(hosts, newMember(t, fmt.Sprint("h", i), s))
			}
			for _, h := range hosts {
				h.awaitMember()
			}
			var wg sync.WaitGroup
			for i, h := range hosts {
				subnet := "10.1.0.0/24"
				if !same {
					subnet = fmt.Sprintf("10.%d.0.0/24", i)
				}
				wg.Go(func() {
					if _, err := h.RequestPool(t.Context(), ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: prefix(subnet)}); err != nil {
						t.Errorf("%s: %v", h.name, err)
					}
				})
			}
			wg.Wait()
		})
	}
}

// Whatever the store says, the network's own address, its broadcast address and what is
// outside must neither be handed out nor count as free.
func TestClusterRecordGivesWhatNobodyMayHave(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	a := newMember(t, "a", fake.Peer())
	pa := a.pool("10.1.0.0/28")
	a.get(pa)
	kv := records(t, fake, "own/")[0]
	rec, err := ownership.Decode(kv.Value)
	if err != nil {
		t.Fatal(err)
	}
	const gateway = ownership.Mask(1 << 1)
	rec.Owned[a.cluster.Me()] = (1<<16-1)&^gateway | 1<<40
	if _, err := fake.Commit(t.Context(), store.Txn{Then: []store.Op{store.Put(kv.Key, rec.Encode())}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a has all others", func() bool { return a.View()[0].Cluster.Own >= 12 })
	for range 12 {
		if x := a.get(pa); x == netip.MustParseAddr("10.1.0.0") || x == netip.MustParseAddr("10.1.0.15") || !prefix("10.1.0.0/28").Contains(x) {
			t.Fatal(x)
		}
	}
	if _, err := a.RequestAddress(t.Context(), ipam.AddressRequest{PoolID: pa}); !errors.Is(err, ipam.ErrExhausted) {
		t.Fatal(err)
	}
	if n := a.View()[0].Cluster.Own; n != 0 {
		t.Fatalf("%d addresses count as free", n)
	}
}

// A damaged record of one pool must not keep a removed host's addresses of the others
// from being freed.
func TestClusterRemovalPassesADamagedRecord(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	a, b := newMember(t, "a", fake.Peer()), newMember(t, "b", fake.Peer())
	pa := a.pool("10.1.0.0/28")
	b.pool("10.1.0.0/28")
	a.get(pa)
	a.halt()
	if _, err := fake.Commit(t.Context(), store.Txn{Then: []store.Op{store.Put("own/0000/10.9.0.0", []byte(`{`))}}); err != nil {
		t.Fatal(err)
	}
	if err := b.remove("a"); err != nil {
		t.Fatal(err)
	}
	if n := ownedBy(t, fake, a.cluster.Me()); n > 0 {
		t.Fatalf("the removed host owns %d addresses", n)
	}
}

// A record of a pool that cannot be read freezes nobody and is not asked for without a
// pause; the host says what is wrong, hands out what it owns, makes no new pool beside it
// but joins others, and goes on as soon as the record is right.
func TestClusterPoolThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]string{"garbage": "garbage", "newer": `{"v":2}`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := store.NewFake()
			sa := &readCounter{hooked: newHooked(fake)}
			a, b := newMember(t, "a", sa), newMember(t, "b", fake.Peer())
			pa := a.pool("10.1.0.0/24")
			a.get(pa)
			b.pool("10.2.0.0/24")
			if a.Problem() != nil {
				t.Fatal(a.Problem())
			}
			key := "pools/cluster/10.1.0.0/24"
			good := records(t, fake, key)[0]
			byHand(t, fake, key, bad)
			eventually(t, "a says it", func() bool { return a.Problem() != nil && a.View()[0].Cluster.Problem != nil })
			n := sa.reads.Load()
			stays(t, "there are pauses", time.Second, func() bool { return sa.reads.Load() < n+20 })
			a.get(pa)
			if v := a.cluster.Verdict(); v.Standing != cluster.Member {
				t.Errorf("a is %+v", v)
			}
			if _, err := a.RequestPool(t.Context(), ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: prefix("10.2.0.0/24")}); err != nil {
				t.Errorf("a pool of b's: %v", err)
			}
			byHand(t, fake, key, string(good.Value))
			eventually(t, "a goes on", func() bool { return a.Problem() == nil && a.inside("10.1.0.0/24") })
			for range 100 {
				a.get(pa)
			}
		})
	}
}

// readCounter counts the reads of a host.
type readCounter struct {
	*hooked
	reads atomic.Int64
}

func (c *readCounter) Read(ctx context.Context, prefix string) (store.Snapshot, error) {
	c.reads.Add(1)
	return c.hooked.Read(ctx, prefix)
}

// A host can be removed while a record of a pool, or its own, cannot be read; a removal
// says what it left.
func TestClusterRemovalPassesWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ key, value string }{
		"a pool that is damaged":         {"pools/cluster/10.9.0.0/24", "x"},
		"a pool of a newer version":      {"pools/cluster/10.9.0.0/24", `{"v":2}`},
		"another host that is damaged":   {"self/zz", "x"},
		"no host":                        {"self/", "x"},
		"the host of a newer version":    {"self/B", `{"v":2}`},
		"the host, its record destroyed": {"self/B", "x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := store.NewFake()
			a, b := newMember(t, "a", fake.Peer()), newMember(t, "b", fake.Peer())
			pa := a.pool("10.1.0.0/28")
			b.get(b.pool("10.1.0.0/28"))
			a.get(pa)
			a.awaitKnows(1)
			id := b.cluster.Me()
			b.halt()
			byHand(t, fake, strings.Replace(c.key, "B", string(id), 1), c.value)
			eventually(t, "a lists all hosts", func() bool {
				hosts := a.cluster.Hosts()
				find := func(h ownership.Host) bool {
					return slices.ContainsFunc(hosts, func(v cluster.HostView) bool { return v.ID == h && (v.Note != "") == (h != id || c.key == "self/B") })
				}
				return find(id) && (c.key != "self/zz" || find("zz"))
			})
			v, err := a.cluster.RemoveHost(t.Context(), cluster.Removal{Name: string(id), PoweredOff: true})
			if err != nil {
				t.Fatal(err)
			}
			if left := strings.HasPrefix(c.key, "pools/"); left != strings.Contains(v.Note, "10.9.0.0") {
				t.Errorf("note %q", v.Note)
			}
			if n := ownedBy(t, fake, id); n > 0 {
				t.Errorf("it owns %d addresses", n)
			}
			eventually(t, "it is in no pool", func() bool { return len(a.cluster.PoolsOf(id)) == 0 })
			for range 10 {
				a.get(pa)
			}
		})
	}
}

// A record of a host that cannot be read stops no recovery: the host is waited for, and
// can be removed by its id.
func TestClusterRecoveryWithAHostThatCannotBeRead(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	a, b := newMember(t, "a", fake.Peer()), newMember(t, "b", fake.Peer())
	a.awaitKnows(1)
	b.awaitKnows(1)
	fake.Wipe()
	frozen(t, a, b)
	byHand(t, fake, "self/zz", `{"v":2}`)
	if err := a.cluster.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a waits for zz alone", func() bool { return slices.Equal(a.cluster.WaitsFor(), []ownership.Host{"zz"}) })
	if err := a.remove("zz"); err != nil {
		t.Fatal(err)
	}
	a.awaitMember()
	b.awaitMember()
}

// A host that cannot say that it has come back must not try it without a pause.
func TestClusterComesBackWithPauses(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	sa := newHooked(fake)
	a := newMember(t, "a", sa)
	pa := a.pool("10.1.0.0/24")
	a.get(pa)
	var tries atomic.Int64
	sa.onCommit("back/", func(_ context.Context, txn store.Txn, commit do) (store.Result, error) {
		if slices.ContainsFunc(txn.Then, func(op store.Op) bool { return op.Key == "cluster" }) {
			return commit() // the recovery's begin
		}
		tries.Add(1)
		return store.Result{}, store.ErrReadOnly
	})
	fake.Wipe()
	eventually(t, "a is frozen", func() bool { return a.cluster.Verdict().Standing == cluster.Frozen })
	if err := a.cluster.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a has told what it owns", func() bool { return tries.Load() > 0 })
	stays(t, "there are pauses", 500*time.Millisecond, func() bool { return tries.Load() < 20 })
	sa.onCommit("back/", nil)
	a.awaitMember()
}

// An address that Swarm's leader gives must neither wait for its owner nor show as a
// conflict, also when it moves to another node.
func TestClusterLeadersAddressIsNoConflict(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	leader := func(m *member) { m.leader = true }
	a, b := newMember(t, "a", fake.Peer(), leader), newMember(t, "b", fake.Peer(), leader)
	pa, pb := a.pool("10.1.0.0/24"), b.pool("10.1.0.0/24")
	x := a.get(pa) // a owns it from here on
	if err := a.ReleaseAddress(t.Context(), pa, x); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*member{a, b} {
		if err := m.Bind(t.Context(), swarmNetwork, prefix("10.1.0.0/24")); err != nil {
			t.Fatal(err)
		}
	}
	for _, y := range []netip.Addr{x, netip.MustParseAddr("10.1.0.77")} {
		if err := a.explicit(pa, y.String()); err != nil {
			t.Fatal(err)
		}
		if err := a.ReleaseAddress(t.Context(), pa, y); err != nil {
			t.Fatal(err)
		}
		if err := b.explicit(pb, y.String()); err != nil {
			t.Fatal(err)
		}
	}
	b.restart() // it looks for conflicts when it begins
	stays(t, "there is no conflict", time.Second, func() bool {
		for _, m := range []*member{a, b} {
			for _, y := range m.View()[0].Addresses {
				if y.Conflict {
					return false
				}
			}
		}
		return true
	})
}

// In a Swarm network whose addresses do not come from its leader, no address must have
// two holders.
func TestClusterSwarmNetworkWithoutLeader(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	a, b := newMember(t, "a", fake.Peer()), newMember(t, "b", fake.Peer())
	pa, pb := a.pool("10.1.0.0/24"), b.pool("10.1.0.0/24")
	for _, m := range []*member{a, b} {
		if err := m.Bind(t.Context(), swarmNetwork, prefix("10.1.0.0/24")); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.explicit(pa, b.get(pb).String()); !errors.Is(err, ipam.ErrInUse) {
		t.Fatal(err)
	}
}

// A host that was removed meanwhile must not be given the address that it asked for.
func TestClusterGrantsNothingToARemovedHost(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	sa, sb := newHooked(fake), fake.Peer()
	a, b, c := newMember(t, "a", sa), newMember(t, "b", sb), newMember(t, "c", fake.Peer())
	pa, pb := a.pool("10.1.0.0/24"), b.pool("10.1.0.0/24")
	c.pool("10.1.0.0/24")
	x := a.get(pa)
	if err := a.ReleaseAddress(t.Context(), pa, x); err != nil {
		t.Fatal(err)
	}
	hold := newGate(t)
	var done atomic.Int64
	sa.onCommit("ask/", func(_ context.Context, _ store.Txn, do do) (store.Result, error) {
		defer done.Add(1)
		hold.pass()
		return do()
	})
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	asking.Go(func() {
		_, _ = b.RequestAddress(ctx, ipam.AddressRequest{PoolID: pb, Address: x})
	})
	hold.await(t, "the grant is out")
	cancel()
	asking.Wait()
	sb.SetDown(true) // so its ask stays
	b.halt()
	if err := c.remove("b"); err != nil {
		t.Fatal(err)
	}
	hold.open()
	eventually(t, "the grant has ended", func() bool { return done.Load() > 0 })
	if n := ownedBy(t, fake, b.cluster.Me()); n > 0 {
		t.Fatalf("the removed host owns %d addresses", n)
	}
}

// A host that is being removed must not take the loss of its addresses for a restored
// store, and freeze the cluster.
func TestClusterRemovedHostFreezesNobody(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	sa := newHooked(fake)
	a, b := newMember(t, "a", sa), newMember(t, "b", fake.Peer())
	pa := a.pool("10.1.0.0/24")
	b.pool("10.1.0.0/24")
	a.get(pa)
	old := a.cluster.Me()
	hold := newGate(t)
	sa.onGet(func(key string) {
		if key == "self/"+string(old) {
			hold.pass() // its answer is of before the removal
		}
	})
	a.cluster.Wake()
	hold.await(t, "a look is under way")
	if err := b.remove("a"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a sees that its addresses are gone", func() bool { return a.View()[0].Cluster.Owners[old] == 0 })
	a.cluster.Suspect("the store lacks what this host owns")
	hold.open()
	eventually(t, "a has a new id", func() bool { return a.cluster.Me() != old && a.cluster.Ready() == nil })
	b.awaitMember()
}

// A gateway that a network wished and did not get must not be taken from the containers
// later.
func TestClusterForgetsAGatewayThatItDidNotGet(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	sa := newHooked(fake)
	a, b := newMember(t, "a", sa), newMember(t, "b", fake.Peer())
	req := ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: prefix("10.1.0.0/24")}
	pa, err := a.RequestPool(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	pb, err := b.RequestPool(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	hold := newGate(t)
	sa.onCommit("own/", func(_ context.Context, _ store.Txn, do do) (store.Result, error) {
		hold.pass()
		return do()
	})
	got := make(chan error, 1)
	go func() {
		_, err := a.RequestAddress(context.Background(), ipam.AddressRequest{PoolID: pa.ID, Gateway: true})
		got <- err
	}()
	hold.await(t, "a wishes a gateway")
	if err := b.Bind(t.Context(), localNetwork, prefix("10.1.0.0/24")); err != nil {
		t.Fatal(err)
	}
	if err := b.explicit(pb.ID, "10.1.0.1"); err != nil {
		t.Fatal(err)
	}
	hold.open()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if err := b.ReleaseAddress(t.Context(), pb.ID, netip.MustParseAddr("10.1.0.1")); err != nil {
		t.Fatal(err)
	}
	if err := b.ReleasePool(t.Context(), pb.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nobody owns 10.1.0.1", func() bool { return ownedBy(t, fake, b.cluster.Me()) == 0 })
	stays(t, "a has one gateway", 500*time.Millisecond, func() bool { return len(a.View()[0].Cluster.Shared) == 1 })
}

// One container must not cost more than two transactions, nor its host take a great
// part of the pool.
func TestClusterFetchesNoMoreThanABatch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		subnet string
		hosts  int
		most   int
	}{{"10.1.0.0/16", 1, 64}, {"10.1.0.0/16", 2, 64}, {"10.1.0.0/24", 1, 64}, {"10.1.0.0/24", 2, 32}} {
		t.Run(fmt.Sprintf("%s %d hosts", strings.ReplaceAll(c.subnet, "/", "_"), c.hosts), func(t *testing.T) {
			t.Parallel()
			fake := store.NewFake()
			sa := newHooked(fake)
			a := newMember(t, "a", sa)
			for range c.hosts - 1 {
				newMember(t, "b", fake.Peer()).pool(c.subnet)
			}
			pa := a.pool(c.subnet)
			var commits atomic.Int64
			sa.onCommit("own/", func(_ context.Context, _ store.Txn, do do) (store.Result, error) {
				commits.Add(1)
				return do()
			})
			a.get(pa)
			stays(t, "little is fetched", 500*time.Millisecond, func() bool {
				return commits.Load() <= 2 && ownedBy(t, fake, a.cluster.Me()) <= c.most
			})
		})
	}
}

// An address that its owner gives up at this moment must not be refused: it can be had
// a moment later.
func TestClusterAddressIsBeingGivenUp(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	sa, sb := newHooked(fake), newHooked(fake)
	a, b := newMember(t, "a", sa), newMember(t, "b", sb)
	pa, pb := a.pool("10.1.0.0/28"), b.pool("10.1.0.0/28")
	x := a.get(pa)
	hold := newGate(t)
	me := a.cluster.Me()
	sa.onCommit("own/", func(_ context.Context, txn store.Txn, do do) (store.Result, error) {
		if rec, err := ownership.Decode(txn.Then[0].Value); err == nil && rec.Owned[me]&ownership.Bit(x) == 0 {
			hold.pass() // it gives x up, and is no fetch
		}
		return do()
	})
	var asks atomic.Int64
	sb.onCommit("ask/", func(_ context.Context, txn store.Txn, do do) (store.Result, error) {
		if !txn.Then[0].Delete && asks.Add(1) == 2 {
			hold.open() // it was told once that the address is on its way
		}
		return do()
	})
	if err := a.ReleasePool(t.Context(), pa); err != nil {
		t.Fatal(err)
	}
	hold.await(t, "a gives its addresses up")
	if err := b.explicit(pb, x.String()); err != nil {
		t.Fatal(err)
	}
}

// A network that is made while its subnet is being given up must not wait in vain when
// that fails.
func TestClusterPoolIsWantedAgainWhileLeavingFails(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	sa := newHooked(fake)
	a := newMember(t, "a", sa)
	pa := a.pool("10.1.0.0/28")
	hold := newGate(t)
	sa.onCommit("pools/", func(_ context.Context, _ store.Txn, do do) (store.Result, error) {
		if hold.pass() {
			return store.Result{}, store.ErrDown
		}
		return do()
	})
	if err := a.ReleasePool(t.Context(), pa); err != nil {
		t.Fatal(err)
	}
	hold.await(t, "a leaves the pool")
	got := make(chan error, 1)
	go func() {
		_, err := a.RequestPool(context.Background(), ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: prefix("10.1.0.0/28")})
		got <- err
	}()
	stays(t, "the request waits", 50*time.Millisecond, func() bool { return len(got) == 0 })
	begin := time.Now()
	hold.open()
	if err := <-got; err != nil || time.Since(begin) > 2*time.Second {
		t.Fatalf("after %v: %v", time.Since(begin), err)
	}
}

// A network that is replaced by one of another size waits for its pool to be given up; if
// that does not come about, it says so.
func TestClusterPoolIsReplacedByAWiderOne(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	sa := newHooked(fake)
	a := newMember(t, "a", sa)
	pa := a.pool("10.1.0.0/28")
	hold := newGate(t)
	sa.onCommit("pools/", func(_ context.Context, _ store.Txn, do do) (store.Result, error) {
		hold.pass()
		return do()
	})
	if err := a.ReleasePool(t.Context(), pa); err != nil {
		t.Fatal(err)
	}
	hold.await(t, "a leaves the pool")
	request := func(ctx context.Context) error {
		_, err := a.RequestPool(ctx, ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: prefix("10.1.0.0/24")})
		return err
	}
	hurry, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := request(hurry); !errors.Is(err, ipam.ErrOverlap) || !strings.Contains(err.Error(), "without a network here") {
		t.Errorf("while the pool is given up: %v", err)
	}
	got := make(chan error, 1)
	go func() { got <- request(context.WithoutCancel(t.Context())) }()
	stays(t, "the request waits", 50*time.Millisecond, func() bool { return len(got) == 0 })
	hold.open()
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// While the store is down nothing is given up, so nobody waits for it.
func TestClusterPoolIsNotReplacedWithoutTheStore(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	peer := fake.Peer()
	a := newMember(t, "a", peer)
	pa := a.pool("10.1.0.0/28")
	peer.SetDown(true)
	eventually(t, "a sees that the store is down", func() bool { return !a.cluster.Up() })
	if err := a.ReleasePool(t.Context(), pa); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	_, err := a.RequestPool(t.Context(), ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: prefix("10.1.0.0/24")})
	if took := time.Since(begin); !errors.Is(err, ipam.ErrOverlap) || took > 2*time.Second {
		t.Errorf("after %v: %v", took, err)
	}
}

// TestJoinInARecovery: a membership that was begun before a recovery must not come
// about in it: the pool of a wiped store would begin another life, and what this host
// owned of the old one would be forgotten.
func TestJoinInARecovery(t *testing.T) {
	fake := store.NewFake()
	a, b := newMember(t, "a", fake.Peer()), newMember(t, "b", fake.Peer())
	pa := a.pool("10.1.0.0/24")
	b.pool("10.1.0.0/24")
	had := a.get(pa)
	pool := a.cluster.PoolsOf(a.cluster.Me())[0]
	eventually(t, "a knows b", func() bool { return len(a.cluster.Hosts()) == 2 })
	b.halt()
	fake.Wipe()
	eventually(t, "a is frozen", func() bool { return a.cluster.Verdict().Standing == cluster.Frozen })
	if err := a.cluster.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a waits for b", func() bool { return a.cluster.Verdict().Standing == cluster.Waiting })
	if _, err := a.cluster.Join(t.Context(), "cluster", prefix("10.2.0.0/24"), nil); !errors.Is(err, cluster.ErrNotNow) {
		t.Fatalf("a new pool: %v", err)
	}
	if _, err := a.cluster.Affirm(t.Context(), pool); !errors.Is(err, cluster.ErrNotNow) {
		t.Fatalf("an old pool: %v", err)
	}
	if now := a.cluster.PoolsOf(a.cluster.Me()); len(now) != 1 || now[0].UUID != pool.UUID {
		t.Fatalf("%s became %v", pool.UUID, now)
	}
	if err := a.explicit(pa, had.String()); !errors.Is(err, ipam.ErrInUse) {
		t.Fatal(err)
	}
}

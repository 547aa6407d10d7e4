package ipam_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/store"
	"github.com/weft-net/weft/ipam"
)

func TestClusterSharesAPool(t *testing.T) {
	fake := store.NewFake()
	seen := make(map[netip.Addr]string)
	for i := range 3 {
		m := newMember(t, fmt.Sprintf("h%d", i+1), fake.Peer())
		id := m.pool("10.1.0.0/24")
		for range 70 {
			a := m.get(id)
			if who := seen[a]; who != "" {
				t.Fatalf("%s has %s, which %s has", m.name, a, who)
			}
			seen[a] = m.name
		}
	}
}

func TestClusterGatewayIsShared(t *testing.T) {
	fake := store.NewFake()
	a, b := newMember(t, "a", fake.Peer()), newMember(t, "b", fake.Peer())
	req := ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: prefix("10.1.0.0/24")}
	pa, err := a.RequestPool(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	want := netip.MustParsePrefix("10.1.0.9/24")
	got, err := a.RequestAddress(t.Context(), ipam.AddressRequest{PoolID: pa.ID, Gateway: true, Address: want.Addr()})
	if err != nil || got != want {
		t.Fatal(got, err)
	}
	pb, err := b.RequestPool(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if got, err = b.RequestAddress(t.Context(), ipam.AddressRequest{PoolID: pb.ID, Gateway: true}); err != nil || got != want {
		t.Fatalf("the second host got %v, %v", got, err)
	}
	if err := b.explicit(pb.ID, "10.1.0.9"); !errors.Is(err, ipam.ErrInUse) {
		t.Fatal(err)
	}
}

func TestClusterExplicitAddressOfAnotherHost(t *testing.T) {
	fake := store.NewFake()
	a, b := newMember(t, "a", fake.Peer()), newMember(t, "b", fake.Peer())
	pa, pb := a.pool("10.1.0.0/24"), b.pool("10.1.0.0/24")
	x := a.get(pa)
	if err := b.explicit(pb, x.String()); !errors.Is(err, ipam.ErrInUse) || !strings.Contains(err.Error(), "host a") {
		t.Fatal(err)
	}
	if err := a.ReleaseAddress(t.Context(), pa, x); err != nil {
		t.Fatal(err)
	}
	if err := b.explicit(pb, x.String()); err != nil {
		t.Fatal(err)
	}
	if err := a.explicit(pa, x.String()); !errors.Is(err, ipam.ErrInUse) {
		t.Fatal(err)
	}
	y := a.get(pa)
	a.halt()
	eventually(t, "a's lease ends", func() bool { return !b.cluster.Connected(a.cluster.Me()) })
	begin := time.Now()
	if err := b.explicit(pb, y.String()); !errors.Is(err, ipam.ErrOwner) || !strings.Contains(err.Error(), "host a") || time.Since(begin) > time.Second {
		t.Fatalf("after %v: %v", time.Since(begin), err)
	}
}

func TestClusterWithoutItsStore(t *testing.T) {
	fake := store.NewFake()
	a, b := newMember(t, "a", fake.Peer()), newMember(t, "b", fake.Peer())
	pa, pb := a.pool("10.1.0.0/20"), b.pool("10.1.0.0/20")
	held := a.get(pa)
	b.get(pb)
	down := func(down bool) {
		for _, m := range []*member{a, b} {
			m.store.(*store.Fake).SetDown(down)
		}
	}
	down(true)
	for range 20 {
		a.get(pa)
		b.get(pb)
	}
	begin := time.Now()
	if _, err := a.RequestPool(t.Context(), ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: prefix("10.9.0.0/24")}); !errors.Is(err, ipam.ErrStore) {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > time.Second {
		t.Fatalf("refused after %v", took)
	}
	a.restart()
	a.get(pa)
	if err := a.ReleaseAddress(t.Context(), pa, held); err != nil {
		t.Fatal(err)
	}
	if err := a.explicit(pa, held.String()); err != nil {
		t.Fatal(err)
	}
	down(false)
	eventually(t, "a is a member again", func() bool { return a.cluster.Ready() == nil })
	a.pool("10.9.0.0/24")
}

func TestClusterPoolEnds(t *testing.T) {
	fake := store.NewFake()
	a, b := newMember(t, "a", fake.Peer()), newMember(t, "b", fake.Peer())
	pa, pb := a.pool("10.1.0.0/24"), b.pool("10.1.0.0/24")
	a.get(pa)
	b.get(pb)
	for m, id := range map[*member]string{a: pa, b: pb} {
		if err := m.ReleasePool(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "nothing of the pool is left", func() bool {
		pools, _ := fake.Read(t.Context(), "pools/")
		owners, _ := fake.Read(t.Context(), "own/")
		return len(pools.KVs)+len(owners.KVs) == 0
	})
	a.get(a.pool("10.1.0.0/24"))
}

// TestClusterSmallPools has many hosts on few addresses: every address is handed
// out, each once, and then the error says who has them.
func TestClusterSmallPools(t *testing.T) {
	for _, c := range []struct {
		hosts  int
		subnet string
		free   int
	}{{8, "10.1.0.0/28", 13}, {60, "10.2.0.0/24", 253}} {
		t.Run(fmt.Sprintf("%d hosts in %s", c.hosts, c.subnet), func(t *testing.T) {
			t.Parallel()
			fake := store.NewFake()
			var hosts []*member
			var ids []string
			for i := range c.hosts {
				hosts = append(hosts, newMember(t, fmt.Sprintf("h%d", i), fake.Peer()))
				ids = append(ids, hosts[i].pool(c.subnet))
			}
			seen := make(map[netip.Addr]int)
			for n := range c.free {
				i := n % c.hosts
				a, err := hosts[i].RequestAddress(t.Context(), ipam.AddressRequest{PoolID: ids[i]})
				for errors.Is(err, ipam.ErrStore) && t.Context().Err() == nil { // the machine is too busy for the wait
					a, err = hosts[i].RequestAddress(t.Context(), ipam.AddressRequest{PoolID: ids[i]})
				}
				if err != nil {
					t.Fatalf("address %d of %d: %v", n+1, c.free, err)
				}
				if _, twice := seen[a.Addr()]; twice {
					t.Fatalf("%s twice", a)
				}
				seen[a.Addr()] = i
			}
			_, err := hosts[0].RequestAddress(t.Context(), ipam.AddressRequest{PoolID: ids[0]})
			if !errors.Is(err, ipam.ErrExhausted) || !strings.Contains(err.Error(), "owners: ") {
				t.Fatal(err)
			}
			for a, i := range seen {
				if err := hosts[i].ReleaseAddress(t.Context(), ids[i], a); err != nil {
					t.Fatal(err)
				}
				break
			}
			hosts[0].get(ids[0])
		})
	}
}

func TestClusterDynamicPoolsDiffer(t *testing.T) {
	fake := store.NewFake()
	a, b := newMember(t, "a", fake.Peer()), newMember(t, "b", fake.Peer())
	seen := make(map[string]bool)
	for range 3 {
		for _, m := range []*member{a, b} {
			p, err := m.RequestPool(t.Context(), ipam.PoolRequest{Space: ipam.LocalSpace})
			if err != nil {
				t.Fatal(err)
			}
			if seen[p.Subnet.String()] {
				t.Fatalf("%s twice", p.Subnet)
			}
			seen[p.Subnet.String()] = true
		}
	}
	if _, err := b.RequestPool(t.Context(), ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: prefix("10.64.8.0/21")}); !errors.Is(err, ipam.ErrOverlap) {
		t.Fatal(err)
	}
}

func TestClusterHostThatAnswersAnother(t *testing.T) {
	fake := store.NewFake()
	far := netip.MustParseAddr("192.0.2.7")
	var reached atomic.Bool
	reached.Store(true)
	a := newMember(t, "a", fake.Peer(), func(m *member) { m.address = far })
	b := newMember(t, "b", fake.Peer())
	newMember(t, "c", fake.Peer(), func(m *member) {
		m.answers = func(addr netip.Addr) bool { return addr == far && reached.Load() }
	})
	eventually(t, "b knows all", func() bool {
		hosts := b.cluster.Hosts()
		return len(hosts) == 3 && hosts[0].Address == far && hosts[0].Connected && hosts[2].Connected
	})
	a.halt()
	eventually(t, "a's lease ends", func() bool { return !b.cluster.Connected(a.cluster.Me()) })
	remove := func() error {
		_, err := b.cluster.RemoveHost(t.Context(), cluster.Removal{Name: "a"})
		return err
	}
	if err := remove(); !errors.Is(err, cluster.ErrConnected) || !strings.Contains(err.Error(), "asked by c") {
		t.Fatalf("c still reaches it: %v", err)
	}
	if left, err := fake.Read(t.Context(), "reach/"); err != nil || len(left.KVs) > 0 {
		t.Fatalf("questions stay: %v, %v", left, err)
	}
	reached.Store(false)
	if _, err := fake.Commit(t.Context(), store.Txn{Then: []store.Op{store.Put("alive/mute", []byte("{}"))}}); err != nil {
		t.Fatal(err)
	}
	if err := remove(); !errors.Is(err, cluster.ErrConnected) || !strings.Contains(err.Error(), "mute did not say") {
		t.Fatalf("who is connected and does not say may reach it: %v", err)
	}
	if _, err := fake.Commit(t.Context(), store.Txn{Then: []store.Op{store.Delete("alive/mute")}}); err != nil {
		t.Fatal(err)
	}
	if err := remove(); err != nil {
		t.Fatal(err)
	}
}

func TestClusterRemovedHost(t *testing.T) {
	fake := store.NewFake()
	a, b := newMember(t, "a", fake.Peer()), newMember(t, "b", fake.Peer())
	pa, pb := a.pool("10.1.0.0/28"), b.pool("10.1.0.0/28")
	x := a.get(pa)
	if _, err := b.cluster.RemoveHost(t.Context(), cluster.Removal{Name: "a"}); !errors.Is(err, cluster.ErrConnected) {
		t.Fatal(err)
	}
	a.halt()
	eventually(t, "a's lease ends", func() bool { return !b.cluster.Connected(a.cluster.Me()) })
	if _, err := b.cluster.RemoveHost(t.Context(), cluster.Removal{Name: "a"}); err != nil {
		t.Fatal(err)
	}
	got := make(map[netip.Addr]bool)
	for range 13 {
		got[b.get(pb)] = true
	}
	if !got[x] {
		t.Fatalf("%s was not used again: %v", x, got)
	}
	old := a.cluster.Me()
	a.start()
	eventually(t, "a has a new id", func() bool { return a.cluster.Me() != old && a.cluster.Ready() == nil })
	if _, err := a.RequestAddress(t.Context(), ipam.AddressRequest{PoolID: pa}); !errors.Is(err, ipam.ErrExhausted) {
		t.Fatal(err)
	}
}

func TestClusterStoreIsRestored(t *testing.T) {
	fake := store.NewFake()
	a, b := newMember(t, "a", fake.Peer()), newMember(t, "b", fake.Peer())
	pa, pb := a.pool("10.1.0.0/24"), b.pool("10.1.0.0/24")
	a.get(pa)
	backup := fake.Clone()
	seen := make(map[netip.Addr]bool)
	for range 40 {
		seen[a.get(pa)], seen[b.get(pb)] = true, true
	}
	fake.Restore(backup)
	eventually(t, "both are frozen", func() bool {
		return a.cluster.Verdict().Standing == cluster.Frozen && b.cluster.Verdict().Standing == cluster.Frozen
	})
	if _, err := a.RequestPool(t.Context(), ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: prefix("10.9.0.0/24")}); !errors.Is(err, ipam.ErrStore) {
		t.Fatal(err)
	}
	if err := b.cluster.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both are members", func() bool { return a.cluster.Ready() == nil && b.cluster.Ready() == nil })
	for range 40 {
		for _, x := range []netip.Addr{a.get(pa), b.get(pb)} {
			if seen[x] {
				t.Fatalf("%s twice", x)
			}
			seen[x] = true
		}
	}
}

func TestClusterStoreIsWiped(t *testing.T) {
	fake := store.NewFake()
	a, b := newMember(t, "a", fake.Peer()), newMember(t, "b", fake.Peer())
	pa, pb := a.pool("10.1.0.0/24"), b.pool("10.1.0.0/24")
	seen := map[netip.Addr]bool{a.get(pa): true, b.get(pb): true}
	fake.Wipe()
	eventually(t, "both are frozen", func() bool {
		return a.cluster.Verdict().Standing == cluster.Frozen && b.cluster.Verdict().Standing == cluster.Frozen
	})
	if err := a.cluster.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both are members", func() bool { return a.cluster.Ready() == nil && b.cluster.Ready() == nil })
	for range 100 {
		for _, x := range []netip.Addr{a.get(pa), b.get(pb)} {
			if seen[x] {
				t.Fatalf("%s twice", x)
			}
			seen[x] = true
		}
	}
}

func TestClusterStoreIsChanged(t *testing.T) {
	a := newMember(t, "a", store.NewFake())
	pa := a.pool("10.1.0.0/20")
	a.get(pa)
	a.halt()
	a.store = store.NewFake()
	other := newMember(t, "b", a.store)
	other.pool("10.8.0.0/24")
	a.start()
	eventually(t, "a sees a foreign store", func() bool { return a.cluster.Verdict().Standing == cluster.Foreign })
	a.get(pa)
	if _, err := a.RequestPool(t.Context(), ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: prefix("10.9.0.0/24")}); !errors.Is(err, ipam.ErrStore) {
		t.Fatal(err)
	}
	p, err := a.RequestPool(t.Context(), ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: prefix("10.9.0.0/24"), Options: map[string]string{"domain": "host"}})
	if err != nil {
		t.Fatal(err)
	}
	a.get(p.ID)
}

// TestClusterClone starts a copy of a host's journal on another machine.
func TestClusterClone(t *testing.T) {
	fake := store.NewFake()
	a := newMember(t, "a", fake.Peer())
	pa := a.pool("10.1.0.0/24")
	a.get(pa)
	a.halt()
	file := filepath.Join(t.TempDir(), "journal.db")
	b, err := os.ReadFile(filepath.Join(a.dir, "journal.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	a.start()
	eventually(t, "a is a member again", func() bool { return a.cluster.Ready() == nil })
	clone := &member{tb: t, name: "clone", dir: filepath.Dir(file), store: fake.Peer()}
	clone.start()
	t.Cleanup(clone.halt)
	eventually(t, "the copy is stopped", func() bool { return clone.cluster.Verdict().Standing == cluster.Stopped })
	if _, err := clone.RequestAddress(t.Context(), ipam.AddressRequest{PoolID: pa}); !errors.Is(err, ipam.ErrHost) {
		t.Fatal(err)
	}
	a.get(pa)
}

// TestClusterSwarmGivesTheAddress has a Swarm network, whose addresses come from
// its leader with WEFT_SCOPE=global: the host takes them without asking anybody.
func TestClusterSwarmGivesTheAddress(t *testing.T) {
	fake := store.NewFake()
	a, b := newMember(t, "a", fake.Peer()), newMember(t, "b", fake.Peer())
	pa, pb := a.pool("10.1.0.0/24"), b.pool("10.1.0.0/24")
	x := a.get(pa)
	if err := b.Bind(t.Context(), "k7qf3zj1x0w9v8u7t6s5r4q3p", prefix("10.1.0.0/24")); err != nil {
		t.Fatal(err)
	}
	if err := b.explicit(pb, x.String()); !errors.Is(err, ipam.ErrInUse) {
		t.Fatalf("a local network of Swarm has no leader: %v", err)
	}
	b.halt()
	b.leader = true
	b.start()
	if err := b.Bind(t.Context(), "k7qf3zj1x0w9v8u7t6s5r4q3p", prefix("10.1.0.0/24")); err != nil {
		t.Fatal(err)
	}
	b.store.(*store.Fake).SetDown(true)
	if err := b.explicit(pb, x.String()); err != nil {
		t.Fatal(err)
	}
	if err := b.ReleaseAddress(t.Context(), pb, x); err != nil {
		t.Fatal(err)
	}
}

// TestClusterRecordOfTheFuture has a record that this version cannot read: it is
// left alone, and addresses come from others.
func TestClusterRecordOfTheFuture(t *testing.T) {
	fake := store.NewFake()
	a := newMember(t, "a", fake.Peer())
	pa := a.pool("10.1.0.0/24")
	pools, err := fake.Read(t.Context(), "own/")
	if err != nil || len(pools.KVs) == 0 {
		t.Fatal(pools, err)
	}
	dir := pools.KVs[0].Key[:strings.LastIndexByte(pools.KVs[0].Key, '/')+1]
	future := []byte(`{"v":99,"lease":"yes"}`)
	if _, err := fake.Commit(t.Context(), store.Txn{Then: []store.Op{store.Put(dir+"10.1.0.64", future)}}); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if x := a.get(pa); prefix("10.1.0.64/26").Contains(x) {
			t.Fatalf("%s is of the record of the future", x)
		}
	}
	if err := a.explicit(pa, "10.1.0.70"); !errors.Is(err, ipam.ErrStore) || !strings.Contains(err.Error(), "newer version") {
		t.Fatal(err)
	}
	if kv, _, err := fake.Get(t.Context(), dir+"10.1.0.64"); err != nil || string(kv.Value) != string(future) {
		t.Fatal(string(kv.Value), err)
	}
	if len(a.View()[0].Cluster.Bad) != 1 {
		t.Fatal(a.View()[0].Cluster)
	}
}

// TestClusterKeepsAddressesAtHand has a network without a container when the store
// goes down: the first one starts nevertheless.
func TestClusterKeepsAddressesAtHand(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	a := newMember(t, "a", fake)
	pa := a.pool("10.1.0.0/24")
	if err := a.Bind(t.Context(), strings.Repeat("ab", 32), prefix("10.1.0.0/24")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a owns addresses", func() bool { return a.View()[0].Cluster.Own > 0 })
	fake.SetDown(true)
	a.get(pa)
}

// TestClusterOfTheFuture has a cluster record that this version cannot read: what
// needs the store says so at once, the rest goes on.
func TestClusterOfTheFuture(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	a := newMember(t, "a", fake)
	pa := a.pool("10.1.0.0/24")
	a.get(pa)
	if _, err := fake.Commit(t.Context(), store.Txn{Then: []store.Op{store.Put("cluster", []byte(`{"v":9,"uuid":"x"}`))}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a cannot read it", func() bool { return a.cluster.Verdict().Standing == cluster.Unreadable })
	begin := time.Now()
	_, err := a.RequestPool(t.Context(), ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: prefix("10.9.0.0/24")})
	if !errors.Is(err, ipam.ErrStore) || !strings.Contains(err.Error(), "newer version") || time.Since(begin) > time.Second {
		t.Fatalf("after %v: %v", time.Since(begin), err)
	}
	a.get(pa)
}

// TestClusterPoolOfAnotherNetwork: a network whose subnet is a pool of another network's has
// its addresses from elsewhere.
func TestClusterPoolOfAnotherNetwork(t *testing.T) {
	fake := store.NewFake()
	a := newMember(t, "a", fake.Peer())
	p, err := a.RequestPool(t.Context(), ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: prefix("10.8.0.0/24")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Shared("one", p.Subnet); err != nil {
		t.Error(err)
	}
	if err := a.Bind(t.Context(), "one", p.Subnet); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Shared("one", p.Subnet); err != nil {
		t.Error(err)
	}
	var advice interface{ Hint() string }
	if _, err := a.Shared("two", p.Subnet); !errors.Is(err, ipam.ErrUnknownPool) || !errors.As(err, &advice) || !strings.Contains(advice.Hint(), "--ipam-driver weft:latest") {
		t.Errorf("%v", err)
	}
}

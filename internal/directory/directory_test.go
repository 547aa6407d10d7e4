package directory_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/directory/directorytest"
	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/internal/store"
)

// host is one host: its membership and its directory.
type host struct {
	*directorytest.Host
	t        *testing.T
	journal  *counted
	store    cluster.Store
	onChange atomic.Pointer[func()]
}

// newHost starts a host on a store that answers; attend is what it has from an earlier run.
func newHost(t *testing.T, name string, s cluster.Store, dir string, attend ...directory.Network) *host {
	t.Helper()
	h := startHost(t, name, s, dir, &clock{}, attend...)
	h.Until("ready", h.Ready)
	return h
}

// startHost starts a host on any store.
func startHost(t *testing.T, name string, s cluster.Store, dir string, c *clock, attend ...directory.Network) *host {
	t.Helper()
	h := &host{t: t, store: s}
	addr := netip.MustParseAddr("192.0.2." + name[1:])
	h.Host = directorytest.New(t, directorytest.Config{
		Name: name, Store: s, Dir: dir, Address: func() netip.Addr { return addr }, Now: c.now,
		OnChange: func(string) {
			if f := h.onChange.Load(); f != nil {
				(*f)()
			}
		},
		Memory: func(j *journal.Journal) directory.Journal {
			h.journal = &counted{Journal: j}
			return h.journal
		},
	})
	for _, n := range attend {
		h.Attend(n)
	}
	h.Start()
	return h
}

func (h *host) found(n directory.Network, wanted ...uint32) directory.Network {
	h.t.Helper()
	n, err := h.Found(h.t.Context(), n, true, wanted)
	if err != nil {
		h.t.Fatal(err)
	}
	h.Attend(n)
	return n
}

func network(name string) directory.Network {
	return directory.Network{UUID: cluster.NewID(), Name: name, Mode: "overlay", Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}}
}

func endpoint(id, addr string) directory.Endpoint {
	return directory.Endpoint{ID: id, MAC: "02:00:00:00:00:01", Addrs: []netip.Addr{netip.MustParseAddr(addr)}}
}

// lines describes the endpoints of a network.
func (h *host) lines(uuid string) string {
	var out []string
	for _, e := range h.Endpoints(uuid) {
		out = append(out, fmt.Sprintf("%s %v at %s", e.ID, e.Addrs[0], e.VTEP))
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

// keys are what the store has of networks and endpoints.
func keys(t *testing.T, s *store.Fake) string {
	t.Helper()
	var out []string
	for _, prefix := range []string{"net/", "name/", "vni/", "ep/"} {
		all, err := s.Read(t.Context(), prefix)
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range all.KVs {
			out = append(out, kv.Key)
		}
	}
	return strings.Join(out, " ")
}

// told reports whether the store has an endpoint of this id. Networks and hosts have random
// ids, which may begin alike.
func told(t *testing.T, s *store.Fake, id string) bool {
	t.Helper()
	return slices.ContainsFunc(strings.Fields(keys(t, s)), func(key string) bool { return strings.HasSuffix(key, "/"+id) })
}

func TestLifeOfANetwork(t *testing.T) {
	fake := store.NewFake()
	a, b := newHost(t, "h1", fake.Peer(), t.TempDir()), newHost(t, "h2", fake.Peer(), t.TempDir())
	n := a.found(network("demo"))
	if n.VNI < 4096 || n.VNI >= 1<<24 {
		t.Fatalf("VNI %d", n.VNI)
	}
	b.Until("b sees it by its name", func() bool { got, ok := b.Named("demo"); return ok && got.VNI == n.VNI })
	b.Attend(n)
	a.Publish(n.UUID, endpoint("e1", "10.1.0.2"))
	b.Publish(n.UUID, endpoint("e2", "10.1.0.3"))
	want := "e1 10.1.0.2 at 192.0.2.1; e2 10.1.0.3 at 192.0.2.2"
	for _, h := range []*host{a, b} {
		h.Until("both see both", func() bool { return h.lines(n.UUID) == want })
		h.Until("both have it", func() bool { got, _ := h.Network(n.UUID); return len(got.Hosts) == 2 })
	}
	a.Withdraw(n.UUID, "e1")
	b.Until("e1 is gone", func() bool { return b.lines(n.UUID) == "e2 10.1.0.3 at 192.0.2.2" })
	a.Forsake(n.UUID)
	b.Until("a left", func() bool { got, _ := b.Network(n.UUID); return len(got.Hosts) == 1 })
	b.Forsake(n.UUID)
	b.Until("nothing is left", func() bool { return keys(t, fake) == "" })
}

func TestVNITaken(t *testing.T) {
	fake := store.NewFake()
	a := newHost(t, "h1", fake.Peer(), t.TempDir())
	a.found(network("one"), 7)
	if _, err := a.Found(t.Context(), network("two"), true, []uint32{7}); !errors.Is(err, directory.ErrVNI) || !strings.Contains(err.Error(), "network one") {
		t.Fatal(err)
	}
	if n := a.found(network("two"), 7, 8); n.VNI != 8 {
		t.Fatalf("the next one is %d", n.VNI)
	}
	if _, err := a.Found(t.Context(), network("two"), true, nil); !errors.Is(err, directory.ErrName) {
		t.Fatal(err)
	}
}

func TestNameOfTwo(t *testing.T) {
	fake := store.NewFake()
	a, b := newHost(t, "h1", fake.Peer(), t.TempDir()), newHost(t, "h2", fake.Peer(), t.TempDir())
	x, y := a.found(network("")), b.found(network(""))
	if got, err := a.Claim(t.Context(), x.UUID, "demo", []byte(`{"a":1}`)); err != nil || got.Name != "demo" {
		t.Fatal(got, err)
	}
	winner, err := b.Claim(t.Context(), y.UUID, "demo", []byte(`{}`))
	if !errors.Is(err, directory.ErrName) || winner.UUID != x.UUID || !winner.Agrees(y) {
		t.Fatal(winner, err)
	}
	if got, err := a.Claim(t.Context(), x.UUID, "other", nil); err != nil || got.Name != "demo" {
		t.Fatalf("it has a name: %v, %v", got, err)
	}
}

// TestLookup: a name is known at once on all hosts, and gone with its network.
func TestLookup(t *testing.T) {
	fake := store.NewFake()
	s2 := fake.Peer()
	a, b := newHost(t, "h1", fake.Peer(), t.TempDir()), newHost(t, "h2", s2, t.TempDir())
	n := a.found(network("demo"))
	if got, ok, err := b.Lookup(t.Context(), "demo"); err != nil || !ok || got.UUID != n.UUID || !got.Agrees(n) {
		t.Fatal(got, ok, err)
	}
	if got, ok, err := b.Lookup(t.Context(), "other"); err != nil || ok {
		t.Fatal(got, ok, err)
	}
	s2.SetDown(true)
	begin := time.Now()
	if _, _, err := b.Lookup(t.Context(), "demo"); !errors.Is(err, directory.ErrNoStore) || time.Since(begin) > time.Second {
		t.Fatalf("after %v: %v", time.Since(begin), err)
	}
	s2.SetDown(false)
	if err := a.Remove(t.Context(), n.UUID); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := b.Lookup(t.Context(), "demo"); err != nil || ok {
		t.Fatal(got, ok, err)
	}
}

// TestStoreDown: nothing that is known is lost, and everything is told afterwards.
func TestStoreDown(t *testing.T) {
	fake := store.NewFake()
	s1 := fake.Peer()
	a, b := newHost(t, "h1", s1, t.TempDir()), newHost(t, "h2", fake.Peer(), t.TempDir())
	n := a.found(network("demo"))
	a.Publish(n.UUID, endpoint("e1", "10.1.0.2"))
	b.Attend(n)
	b.Until("b sees e1", func() bool { return b.lines(n.UUID) == "e1 10.1.0.2 at 192.0.2.1" })
	s1.SetDown(true)
	a.Publish(n.UUID, endpoint("e2", "10.1.0.4"))
	a.Withdraw(n.UUID, "e1")
	begin := time.Now()
	if _, err := a.Found(t.Context(), network("two"), true, nil); !errors.Is(err, directory.ErrNoStore) || time.Since(begin) > time.Second {
		t.Fatalf("a store that is known to be down is not waited for: %v", err)
	}
	s1.SetDown(false)
	b.Until("b sees e2 only", func() bool { return b.lines(n.UUID) == "e2 10.1.0.4 at 192.0.2.1" })
}

// TestFindWithoutStore: a network is unknown only if the store said so.
func TestFindWithoutStore(t *testing.T) {
	fake := store.NewFake()
	dir := t.TempDir()
	s := fake.Peer()
	a := newHost(t, "h1", s, dir)
	n := a.found(network("demo"))
	finds := func(name string, want error, words string) {
		t.Helper()
		_, err := a.Find(name)
		if !errors.Is(err, want) || err != nil && !strings.Contains(err.Error(), words) {
			t.Errorf("find %q: %v, want %v with %q", name, err, want, words)
		}
	}
	a.Until("the names were seen", func() bool { return a.Unread() == nil })
	finds("demo", nil, "")
	finds("other", directory.ErrUnknown, "see `weft network ls`")
	s.SetDown(true)
	finds("demo", nil, "")
	finds("other", directory.ErrNoStore, `network "other" cannot be looked up: the store does not answer: see `+"`weft store status`")
	a.Stop()
	a = startHost(t, "h1", s, dir, &clock{}, n)
	finds("demo", directory.ErrNoStore, `network "demo" cannot be looked up: the store has not answered since weft started: see `+"`weft store status`")
	finds(n.UUID, directory.ErrNoStore, "cannot be looked up")
	s.SetDown(false)
	a.Until("the store is back", func() bool { return a.Unread() == nil })
	finds("demo", nil, "")
}

// TestLateWrites: what was lost, came late or is of an earlier run is put right.
func TestLateWrites(t *testing.T) {
	fake := store.NewFake()
	dir := t.TempDir()
	s1 := fake.Peer()
	a := newHost(t, "h1", s1, dir)
	n := a.found(network("demo"))
	for i, fault := range []store.Fault{store.FaultLost, store.FaultApplied, store.FaultLater} {
		s1.Inject(fault)
		id := fmt.Sprintf("e%d", i)
		a.Publish(n.UUID, endpoint(id, fmt.Sprintf("10.1.0.%d", i+2)))
		a.Until(id, func() bool { return told(t, fake, id) })
	}
	for i := range 3 {
		a.Withdraw(n.UUID, fmt.Sprintf("e%d", i))
	}
	a.Until("all are gone", func() bool { return !strings.Contains(keys(t, fake), "ep/") })
	s1.Deliver()
	a.Until("what came late is gone", func() bool { return !strings.Contains(keys(t, fake), "ep/") })
	a.Publish(n.UUID, endpoint("old", "10.1.0.9"))
	a.Until("old", func() bool { return told(t, fake, "old") })
	a.Stop()
	a = newHost(t, "h1", fake.Peer(), dir, n)
	a.Until("the next run knows nothing of old", func() bool { return !told(t, fake, "old") })
}

// TestWipedStore: who has a network tells a store that lost it, and containers reach each
// other all the time.
func TestWipedStore(t *testing.T) {
	for _, how := range []string{"wiped", "emptied"} {
		t.Run(how, func(t *testing.T) {
			fake, now := store.NewFake(), &clock{}
			a := startHost(t, "h1", fake.Peer(), t.TempDir(), &clock{})
			b := startHost(t, "h2", fake.Peer(), t.TempDir(), now)
			both := []*host{a, b}
			for _, h := range both {
				h.Until("ready", h.Ready)
			}
			n := a.found(network("demo"))
			b.Attend(n)
			a.Publish(n.UUID, endpoint("e1", "10.1.0.2"))
			a.Publish(n.UUID, endpoint("e3", "10.1.0.4"))
			b.Publish(n.UUID, endpoint("e2", "10.1.0.3"))
			const all = "e1 10.1.0.2 at 192.0.2.1; e2 10.1.0.3 at 192.0.2.2; e3 10.1.0.4 at 192.0.2.1"
			know := func(want string) {
				t.Helper()
				for _, h := range both {
					h.Until(want, func() bool { return h.lines(n.UUID) == want })
				}
			}
			know(all)
			before := keys(t, fake)
			var lost atomic.Bool
			watch := func() {
				if b.lines(n.UUID) != all {
					lost.Store(true)
				}
			}
			b.onChange.Store(&watch)
			if how == "wiped" {
				fake.Wipe()
			} else if err := empty(t, fake); err != nil {
				t.Fatal(err)
			}
			for _, h := range both {
				h.Until("frozen", func() bool { return h.Cluster.Ready() != nil })
			}
			know(all)
			if err := a.Cluster.Recover(t.Context()); err != nil {
				t.Fatal(err)
			}
			a.Until("recovered", func() bool {
				ready := true
				for _, h := range both {
					if epoch := h.Cluster.Pass().Epoch; epoch > 0 {
						h.Cluster.Told(epoch) // no pool has anything to tell
					}
					ready = ready && h.Cluster.Ready() == nil
				}
				return ready
			})
			a.Until("told again: "+before, func() bool { return keys(t, fake) == before })
			know(all)
			a.Withdraw(n.UUID, "e3")
			a.Until("e3 is gone", func() bool { return !told(t, fake, "e3") })
			if lost.Load() {
				t.Error("endpoints were not known for a while")
			}
			b.onChange.Store(nil)
			const left = "e1 10.1.0.2 at 192.0.2.1; e2 10.1.0.3 at 192.0.2.2"
			now.pass(time.Minute)
			know(left)
		})
	}
}

// empty deletes all that a store has, as `etcdctl del --prefix ""` does.
func empty(t *testing.T, s *store.Fake) error {
	t.Helper()
	_, err := s.Peer().Commit(t.Context(), store.Txn{Then: []store.Op{store.DeletePrefix("")}})
	return err
}

func TestRemove(t *testing.T) {
	fake := store.NewFake()
	dir := t.TempDir()
	a, b := newHost(t, "h1", fake.Peer(), t.TempDir()), newHost(t, "h2", fake.Peer(), dir)
	n := a.found(network("demo"))
	b.Attend(n)
	b.Publish(n.UUID, endpoint("e2", "10.1.0.3"))
	a.Until("a sees e2", func() bool { return a.lines(n.UUID) != "" })
	if err := a.Remove(t.Context(), n.UUID); !errors.Is(err, directory.ErrUsed) || !strings.Contains(err.Error(), "h2 1") {
		t.Fatal(err)
	}
	b.Withdraw(n.UUID, "e2")
	a.Until("e2 is gone", func() bool { return a.lines(n.UUID) == "" })
	b.Stop()
	if err := a.Remove(t.Context(), n.UUID); err != nil {
		t.Fatal(err)
	}
	a.Forsake(n.UUID)
	a.Until("it waits for b", func() bool {
		got, ok := a.Network(n.UUID)
		return ok && got.Removed && len(got.Hosts) == 1
	})
	if _, ok := a.Named("demo"); ok {
		t.Fatal("the name is not free")
	}
	if _, err := a.Join(t.Context(), n.UUID); !errors.Is(err, directory.ErrUnknown) {
		t.Fatal(err)
	}
	again := a.found(network("demo"))
	b = newHost(t, "h2", fake.Peer(), dir, n)
	b.Until("b learns of it", func() bool { got, ok := b.Network(n.UUID); return ok && got.Removed })
	b.Forsake(n.UUID)
	b.Until("the tombstone is gone", func() bool { _, ok := b.Network(n.UUID); return !ok })
	if got, ok := b.Named("demo"); !ok || got.UUID != again.UUID {
		t.Fatal("the new network of the name is gone")
	}
}

// TestRemovedHost: what a host had that an operator removed is taken away by others.
func TestRemovedHost(t *testing.T) {
	fake := store.NewFake()
	a, b := newHost(t, "h1", fake.Peer(), t.TempDir()), newHost(t, "h2", fake.Peer(), t.TempDir())
	n := a.found(network("demo"))
	b.Attend(n)
	b.Publish(n.UUID, endpoint("e2", "10.1.0.3"))
	a.Until("a sees e2", func() bool { return a.lines(n.UUID) != "" })
	b.Stop()
	a.Until("b is off", func() bool { return !a.Cluster.Connected(b.Cluster.Me()) })
	if _, err := a.Cluster.RemoveHost(t.Context(), cluster.Removal{Name: "h2", PoweredOff: true}); err != nil {
		t.Fatal(err)
	}
	a.Until("its endpoints do not count", func() bool { return a.lines(n.UUID) == "" })
	a.Until("its records are gone", func() bool {
		got, _ := a.Network(n.UUID)
		return len(got.Hosts) == 1 && !told(t, fake, "e2")
	})
}

// TestNames: what containers call an endpoint follows it, and outlives a restart of a host
// that has not asked its engine yet.
func TestNames(t *testing.T) {
	fake := store.NewFake()
	dir := t.TempDir()
	a := newHost(t, "h1", fake.Peer(), dir)
	b := newHost(t, "h2", fake.Peer(), t.TempDir())
	n := a.found(network("demo"))
	b.Attend(n)
	names := func(h *host) string {
		var out []string
		for _, e := range h.Endpoints(n.UUID) {
			out = append(out, e.ID+"="+strings.Join(e.Names, ","))
		}
		slices.Sort(out)
		return strings.Join(out, " ")
	}
	both := func(want string) {
		t.Helper()
		for _, h := range []*host{a, b} {
			h.Until(want, func() bool { return names(h) == want })
		}
	}
	e1, e2 := endpoint("e1", "10.1.0.2"), endpoint("e2", "10.1.0.3")
	a.Publish(n.UUID, e1)
	a.Publish(n.UUID, e2)
	both("e1= e2=")
	a.SetNames(map[string][]string{"e1": {"redis", "db"}, "elsewhere": {"x"}}, true)
	both("e1=redis,db e2=")
	a.SetNames(map[string][]string{"e1": {"cache"}, "e2": {"web"}}, true)
	both("e1=cache e2=web")
	a.Publish(n.UUID, e1) // reconcile says so all the time
	a.Stop()
	again := &host{t: t}
	again.Host = directorytest.New(t, directorytest.Config{Name: "h1", Store: fake.Peer(), Dir: dir})
	again.Attend(n)
	again.Publish(n.UUID, e1)
	again.Publish(n.UUID, e2)
	again.Start()
	a = again
	a.Publish(n.UUID, endpoint("e3", "10.1.0.4"))
	both("e1=cache e2=web e3=")
	a.SetNames(map[string][]string{"e3": {"new"}}, false) // the others were not looked at yet
	both("e1=cache e2=web e3=new")
	a.SetNames(map[string][]string{"e2": {"web"}}, true) // that of e1 is gone
	both("e1= e2=web e3=")
}

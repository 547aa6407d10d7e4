package directory

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// alone is the membership of one host without a cluster's own looks, which poke all the time.
type alone struct {
	*store.Fake
	shut  atomic.Int32 // so many changes meet a fence that is shut
	tries atomic.Int32
}

func (*alone) Me() ownership.Host        { return "11112222333344445555666677778888" }
func (*alone) Hosts() []cluster.HostView { return nil }
func (*alone) Ready() error              { return nil }
func (*alone) Verdict() cluster.Verdict  { return cluster.Verdict{Standing: cluster.Member} }
func (*alone) Epoch() int                { return 1 }

func (c *alone) Get(ctx context.Context, key string) (store.KV, error) {
	kv, _, err := c.Fake.Get(ctx, key)
	return kv, err
}

func (c *alone) List(ctx context.Context, prefix string) ([]store.KV, error) {
	snap, err := c.Read(ctx, prefix)
	return snap.KVs, err
}

func (c *alone) Change(ctx context.Context, txn store.Txn) (store.Result, error) {
	if len(txn.Then) > 0 {
		c.tries.Add(1)
		if c.shut.Add(-1) >= 0 {
			return store.Result{}, nil
		}
	}
	return c.Commit(ctx, txn)
}

// has reports whether the store has a record of which the key ends so.
func (c *alone) has(prefix, end string) bool {
	return slices.ContainsFunc(c.Clone().List(prefix).KVs, func(kv store.KV) bool { return strings.HasSuffix(kv.Key, end) })
}

// runAlone runs a directory in a bubble, with a network that this host attends.
func runAlone(t *testing.T) (*Directory, *alone, Network) {
	t.Helper()
	c := &alone{Fake: store.NewFake()}
	d := New(Config{Cluster: c})
	ctx, end := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = d.Run(ctx) }()
	t.Cleanup(func() { end(); <-done })
	n, err := d.Found(ctx, Network{UUID: "u1", Name: "demo", Mode: "overlay"}, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	d.Attend(n)
	time.Sleep(2 * soon)
	return d, c, n
}

func numbered(i int) Endpoint {
	return Endpoint{ID: fmt.Sprintf("%064x", i), MAC: "02:00:00:00:00:01", Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})}}
}

// TestNothingToDo: a host whose endpoints do not change does not compare them all the time,
// though the membership pokes, reconcile repeats what is known, and other hosts have news.
func TestNothingToDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many, minute = 500, 60
		d, c, n := runAlone(t)
		names := map[string][]string{}
		say := func() {
			for i := range many {
				d.Publish(n.UUID, numbered(i))
				if i%100 == 0 {
					time.Sleep(2 * soon)
				}
			}
			d.SetNames(names, true)
			d.Attend(n)
		}
		for i := range many {
			names[numbered(i).ID] = []string{fmt.Sprint("service-", i), "service"}
		}
		say()
		time.Sleep(time.Second)
		if !c.has("ep/", numbered(many-1).ID) {
			t.Fatal("the endpoints are not told")
		}
		allocated := func(do func()) uint64 {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			do()
			synctest.Wait()
			runtime.ReadMemStats(&after)
			return after.TotalAlloc - before.TotalAlloc
		}
		look := allocated(func() { d.settle(t.Context()) })
		tries := c.tries.Load()
		idle := allocated(func() {
			for second := range minute {
				d.Poke()
				theirs := store.Put(hostKeys(n.UUID, "other")+"e1", versioned(numbered(second)))
				if _, err := c.Commit(t.Context(), store.Txn{Then: []store.Op{theirs}}); err != nil {
					t.Fatal(err)
				}
				if second%30 == 0 {
					say()
				}
				time.Sleep(time.Second)
			}
		})
		if most := uint64(2+time.Minute/lookEvery) * look; idle > most {
			t.Errorf("a minute without news costs %d bytes, and one look %d", idle, look)
		}
		if got := c.tries.Load(); got != tries {
			t.Errorf("%d changes without news", got-tries)
		}
	})
}

// TestTriedAgain: what could not be told is told as soon as it can be, and not tried without
// a pause until then.
func TestTriedAgain(t *testing.T) {
	for _, c := range []struct {
		name   string
		before func(*alone)
		after  func(*alone)
	}{
		{"lost", func(c *alone) { c.Inject(store.FaultLost, store.FaultDown, store.FaultLost, store.FaultLost) }, func(*alone) {}},
		{"fence", func(c *alone) { c.shut.Store(4) }, func(*alone) {}},
		{"full", func(c *alone) { c.SetReadOnly(true) }, func(c *alone) { c.SetReadOnly(false) }},
		{"down", func(c *alone) { c.SetDown(true) }, func(c *alone) { c.SetDown(false) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, member, n := runAlone(t)
				c.before(member)
				before := member.tries.Load()
				d.Publish(n.UUID, Endpoint{ID: "e1", MAC: "02:00:00:00:00:01"})
				for range 4 * retryEvery / soon {
					d.Poke() // as the membership does while it looks
					time.Sleep(soon)
				}
				if got := member.tries.Load() - before; got > 6 {
					t.Errorf("%d tries in a second", got)
				}
				c.after(member)
				time.Sleep(2 * retryEvery)
				if !member.has("ep/", "/e1") {
					t.Error("it is not told")
				}
			})
		})
	}
}

// TestPledgeTakenBack: a network that was made in spite of what the caller was told does not
// stay.
func TestPledgeTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, c, _ := runAlone(t)
		c.Inject(store.FaultApplied)
		ctx, cancel := context.WithTimeout(t.Context(), overtaken/2)
		defer cancel()
		if _, err := d.Found(ctx, Network{UUID: "u2", Name: "other", Mode: "overlay"}, true, nil); err == nil {
			t.Fatal("the outcome is known")
		}
		time.Sleep(2 * retryEvery)
		if c.has("net/", "u2") || c.has("name/", "other") {
			t.Error("it is still there")
		}
	})
}

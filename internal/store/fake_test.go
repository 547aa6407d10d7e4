package store_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/store"
)

// TestFaults: every injected fault says what it should and does what it should.
func TestFaults(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault store.Fault
		want  error
		there bool // at once
		later bool // after Deliver
	}{
		{"none", store.FaultNone, nil, true, true},
		{"lost", store.FaultLost, store.ErrUnknown, false, false},
		{"applied", store.FaultApplied, store.ErrUnknown, true, true},
		{"later", store.FaultLater, store.ErrUnknown, false, true},
		{"read-only", store.FaultReadOnly, store.ErrReadOnly, false, false},
		{"down", store.FaultDown, store.ErrDown, false, false},
		{"slow", store.FaultSlow, store.ErrUnknown, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := store.NewFake()
			f.Inject(c.fault)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			_, err := f.Commit(ctx, store.Txn{Then: []store.Op{store.Put("a", nil)}})
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if there := get(t, f, "a").Rev != 0; there != c.there {
				t.Errorf("it is there: %t", there)
			}
			f.Deliver()
			if there := get(t, f, "a").Rev != 0; there != c.later {
				t.Errorf("after Deliver it is there: %t", there)
			}
			put(t, f, "a", "the next one is well")
		})
	}
}

// TestSlow: a slow Commit is answered at Deliver; one that is dropped is unknown.
func TestSlow(t *testing.T) {
	f := store.NewFake()
	f.Inject(store.FaultSlow, store.FaultSlow)
	txn := store.Txn{If: []store.Cond{store.Unchanged("a", 0)}, Then: []store.Op{store.Put("a", nil)}}
	answers := make(chan error, 2)
	slow := func() {
		_, err := f.Commit(t.Context(), txn)
		answers <- err
	}
	go slow()
	eventually(t, time.Second, "it is held", func() bool { return f.Held() == 1 })
	if res := f.Deliver(); len(res) != 1 || !res[0].OK {
		t.Errorf("Deliver: %+v", res)
	}
	if err := <-answers; err != nil {
		t.Error(err)
	}
	go slow()
	eventually(t, time.Second, "it is held", func() bool { return f.Held() == 1 })
	if n := f.Drop(); n != 1 {
		t.Errorf("Drop: %d", n)
	}
	if err := <-answers; !errors.Is(err, store.ErrUnknown) {
		t.Error(err)
	}
}

// TestPeers: peers share the records and have outages of their own, and the keys of
// Live go when their leases end.
func TestPeers(t *testing.T) {
	a := store.NewFake()
	b := a.Peer()
	a.SetDown(true)
	refusesAtOnce(t, a)
	put(t, b, "k", "b")
	m := watch(t, b, "")
	for _, f := range []*store.Fake{a, b} {
		go f.Live(t.Context(), map[bool]string{true: "live/b", false: "live/a"}[f == b], nil, time.Minute)
	}
	eventually(t, time.Second, "b lives", func() bool { return get(t, b, "live/b").Rev != 0 })
	a.SetDown(false)
	eventually(t, time.Second, "a lives", func() bool { return get(t, b, "live/a").Rev != 0 })
	a.SetDown(true)
	a.ExpireLeases()
	if get(t, b, "live/a").Rev != 0 || get(t, b, "live/b").Rev == 0 {
		t.Error("leases ended: that of a, which is down, should be gone, and that of b be there")
	}
	a.SetDown(false)
	m.catchUp(t, a, "")
}

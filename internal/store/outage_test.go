package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/store"
	"github.com/weft-net/weft/internal/store/storetest"
)

// What the rest of weft builds on.
const (
	noticeDown = 2500 * time.Millisecond
	noticeUp   = 1500 * time.Millisecond
	atOnce     = 50 * time.Millisecond
)

// took returns how long until a condition holds.
func took(t testing.TB, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	eventually(t, limit, what, ok)
	return time.Since(start)
}

// refusesAtOnce checks that every call fails without a wait.
func refusesAtOnce(t testing.TB, c client) {
	t.Helper()
	start := time.Now()
	_, commitErr := c.Commit(t.Context(), store.Txn{Then: []store.Op{store.Put("never", nil)}})
	_, readErr := c.Read(t.Context(), "")
	_, _, getErr := c.Get(t.Context(), "never")
	for _, err := range []error{commitErr, readErr, getErr} {
		if !errors.Is(err, store.ErrDown) || errors.Is(err, store.ErrUnknown) {
			t.Errorf("while down: %v", err)
		}
	}
	if d := time.Since(start); d > atOnce {
		t.Errorf("three calls took %s while the store was known to be down", d)
	}
	if st := c.Status(); st.Up || st.Why == "" || st.Member != "" {
		t.Errorf("Status %+v", st)
	}
}

// TestOutage: an outage is noticed and its end too, by polling and by the callback,
// whether members are gone or do not answer.
func TestOutage(t *testing.T) {
	forEach(t, storetest.Config{Members: 3}, func(t *testing.T, s rig) {
		var ups, downs atomic.Int32
		notify := func(up bool) {
			if up {
				ups.Add(1)
			} else {
				downs.Add(1)
			}
		}
		if s.fake != nil {
			s.fake.OnChange(notify)
			notify(true)
		} else {
			cfg := config(s.cluster)
			cfg.OnChange = notify
			s.client = open(t, cfg)
		}
		put(t, s, "a", "1")
		s.down()
		t.Logf("killed: known down after %s", took(t, noticeDown, "it is down", func() bool { return !s.Up() }))
		refusesAtOnce(t, s)
		s.up()
		t.Logf("started: known up after %s", took(t, noticeUp, "it is up", s.Up))
		put(t, s, "a", "2")
		if get(t, s, "never").Rev != 0 {
			t.Error("a refused Commit happened")
		}
		if ups.Load() != 2 || downs.Load() != 1 {
			t.Errorf("OnChange said up %d times and down %d times", ups.Load(), downs.Load())
		}
		if s.cluster == nil {
			return
		}
		for i := range 3 {
			s.cluster.Pause(i)
		}
		t.Logf("paused: known down after %s", took(t, noticeDown, "it is down", func() bool { return !s.Up() }))
		refusesAtOnce(t, s)
		for i := range 3 {
			s.cluster.Resume(i)
		}
		t.Logf("resumed: known up after %s", took(t, noticeUp+time.Second, "it is up", s.Up)) // an election goes before
		put(t, s, "a", "3")
	})
}

// TestBlackHole: a network that swallows packets is an outage like any other, and
// its end is noticed although connections hang.
func TestBlackHole(t *testing.T) {
	t.Parallel()
	forEachEtcd(t, storetest.Config{}, func(t *testing.T, c *storetest.Cluster) {
		s := open(t, config(c))
		m := watch(t, s, "")
		put(t, s, "a", "1")
		c.Cut(0)
		t.Logf("cut: known down after %s", took(t, noticeDown, "it is down", func() bool { return !s.Up() }))
		refusesAtOnce(t, s)
		other := open(t, config(c)) // never had a connection
		_, err := other.Commit(t.Context(), store.Txn{Then: []store.Op{store.Put("b", nil)}})
		if !errors.Is(err, store.ErrDown) || errors.Is(err, store.ErrUnknown) {
			t.Errorf("Commit into a black hole: %v", err)
		}
		storetest.Eventually(t, 10*time.Second, "some seconds pass", func() error {
			if d := time.Since(s.Status().Since); d < 4*time.Second {
				return errors.New(d.String())
			}
			return nil
		})
		c.Heal(0)
		t.Logf("healed: known up after %s", took(t, noticeUp+time.Second, "it is up", s.Up))
		put(t, s, "a", "2")
		m.catchUp(t, s, "")
	})
}

// TestOneSlowRequest: a member that stalls for a moment is not down.
func TestOneSlowRequest(t *testing.T) {
	t.Parallel()
	forEachEtcd(t, storetest.Config{}, func(t *testing.T, c *storetest.Cluster) {
		var downs atomic.Int32
		cfg := config(c)
		cfg.OnChange = func(up bool) {
			if !up {
				downs.Add(1)
			}
		}
		s := open(t, cfg)
		put(t, s, "a", "1")
		c.Pause(0)
		ctx := within(t, 900*time.Millisecond)
		if _, _, err := s.Get(ctx, "a"); !errors.Is(err, store.ErrDown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Get on a stalled member: %v", err)
		}
		c.Resume(0)
		put(t, s, "a", "2")
		if downs.Load() != 0 {
			t.Error("known down for one slow request")
		}
	})
}

// TestMemberLoss: as long as a quorum is left, requests go on and watches miss
// nothing, whichever member is lost and however.
func TestMemberLoss(t *testing.T) {
	t.Parallel()
	forEachEtcd(t, storetest.Config{Members: 3}, func(t *testing.T, c *storetest.Cluster) {
		s := open(t, config(c))
		m := watch(t, s, "m/")
		n := 0
		works := func() bool {
			n++
			_, err := s.Commit(within(t, 500*time.Millisecond), store.Txn{Then: []store.Op{store.Put(fmt.Sprintf("m/%d", n), nil)}})
			return err == nil
		}
		eventually(t, time.Second, "it works", works)
		inUse := func() int {
			for i := range 3 {
				if c.Endpoint(i) == s.Status().Member {
					return i
				}
			}
			t.Fatalf("no member in use: %+v", s.Status())
			return -1
		}
		i := inUse()
		c.Kill(i)
		t.Logf("member in use killed: works after %s", took(t, 5*time.Second, "it works", works))
		m.catchUp(t, s, "m/")
		c.Restart(i)
		i = inUse()
		c.Pause(i)
		t.Logf("member in use paused: works after %s", took(t, 5*time.Second, "it works", works))
		m.catchUp(t, s, "m/")
		c.Resume(i)
		eventually(t, 5*time.Second, "there is a leader", func() bool { return c.Leader() >= 0 })
		c.Kill(c.Leader())
		t.Logf("leader killed: works after %s", took(t, 5*time.Second, "it works", works))
		m.catchUp(t, s, "m/")
	})
}

// TestUnknown: a Commit that a leader could not finish is ErrUnknown, and happens
// later.
func TestUnknown(t *testing.T) {
	t.Parallel()
	forEachEtcd(t, storetest.Config{Members: 3}, func(t *testing.T, c *storetest.Cluster) {
		lead := c.Leader()
		s := open(t, store.Config{Endpoints: "etcd://" + c.Endpoint(lead)})
		first := put(t, s, "u", "before")
		others := []int{(lead + 1) % 3, (lead + 2) % 3}
		for _, i := range others {
			c.Pause(i)
		}
		_, err := s.Commit(within(t, 200*time.Millisecond), store.Txn{
			If: []store.Cond{store.Unchanged("u", first)}, Then: []store.Op{store.Put("u", []byte("later"))},
		})
		for _, i := range others {
			c.Resume(i)
		}
		if !errors.Is(err, store.ErrUnknown) || errors.Is(err, store.ErrDown) {
			t.Fatalf("Commit without a quorum: %v", err)
		}
		eventually(t, 10*time.Second, "it happens later", func() bool {
			kv, _, err := s.Get(t.Context(), "u")
			return err == nil && string(kv.Value) == "later"
		})
	})
}

// TestAbandoned: who waits for an answer when the store is found to be down is told
// so then, and what was sent is ErrUnknown.
func TestAbandoned(t *testing.T) {
	t.Parallel()
	forEachEtcd(t, storetest.Config{}, func(t *testing.T, c *storetest.Cluster) {
		s := open(t, config(c))
		put(t, s, "a", "1")
		c.Pause(0)
		start := time.Now()
		_, err := s.Commit(within(t, time.Minute), store.Txn{Then: []store.Op{store.Put("a", nil)}})
		if d := time.Since(start); !errors.Is(err, store.ErrUnknown) || errors.Is(err, store.ErrDown) || d > noticeDown {
			t.Errorf("Commit on a paused member: %v after %s", err, d)
		}
		c.Resume(0)
	})
}

// TestLive: a record lives as long as its process, is made again after an outage,
// a wiped store and a deletion, and goes at the end.
func TestLive(t *testing.T) {
	forEach(t, storetest.Config{}, func(t *testing.T, s rig) {
		mortal := s.peer(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Live(ctx, "host/a", []byte("1"), 2*time.Second) }()
		there := func() bool {
			kv, _, err := s.Get(t.Context(), "host/a")
			return err == nil && string(kv.Value) == "1"
		}
		eventually(t, 5*time.Second, "it is there", there)
		commit(t, s, store.Txn{Then: []store.Op{store.Delete("host/a")}})
		eventually(t, 5*time.Second, "it is made again after a deletion", there)
		s.down()
		eventually(t, 5*time.Second, "it is down", func() bool { return !s.Up() })
		s.up()
		eventually(t, 5*time.Second, "it is there after an outage", there)
		s.wipe()
		eventually(t, 5*time.Second, "it is made again in an empty store", there)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Live: %v", err)
		}
		if get(t, s, "host/a").Rev != 0 {
			t.Error("it is there after the end")
		}
		if s.fake != nil {
			return
		}
		go func() { done <- mortal.Live(t.Context(), "host/b", nil, 2*time.Second) }()
		eventually(t, 5*time.Second, "it is there", func() bool { return get(t, s, "host/b").Rev != 0 })
		if mortal.Close(); !errors.Is(<-done, store.ErrClosed) {
			t.Error("Live outlives its store")
		}
		t.Logf("process died: record gone after %s", took(t, 10*time.Second, "it is gone", func() bool { return get(t, s, "host/b").Rev == 0 }))
	})
}

// BenchmarkCommit is a Txn with a condition, over loopback to one member whose data
// is in memory.
func BenchmarkCommit(b *testing.B) {
	c := storetest.Start(b, storetest.Config{Version: "3.5"})
	s := open(b, config(c))
	rev := put(b, s, "k", "")
	for b.Loop() {
		rev = commit(b, s, store.Txn{If: []store.Cond{store.Unchanged("k", rev)}, Then: []store.Op{store.Put("k", nil)}}).Rev
	}
}

// BenchmarkDown is a Commit while the store is known to be down.
func BenchmarkDown(b *testing.B) {
	s := open(b, store.Config{Endpoints: "etcd://127.0.0.1:9"})
	txn := store.Txn{Then: []store.Op{store.Put("k", nil)}}
	for b.Loop() {
		if _, err := s.Commit(b.Context(), txn); !errors.Is(err, store.ErrDown) {
			b.Fatal(err)
		}
	}
}

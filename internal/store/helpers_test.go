package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/store"
	"github.com/weft-net/weft/internal/store/storetest"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

// client is what the rest of weft asks of a store.
type client interface {
	Commit(context.Context, store.Txn) (store.Result, error)
	Read(context.Context, string) (store.Snapshot, error)
	Get(context.Context, string) (store.KV, int64, error)
	Watch(context.Context, string, func(store.Update)) error
	Live(context.Context, string, []byte, time.Duration) error
	Status() store.Status
	Up() bool
	Close() error
}

var (
	_ client = (*store.Store)(nil)
	_ client = (*store.Fake)(nil)
)

// rig is a store under test with the hands of an operator.
type rig struct {
	client
	cluster *storetest.Cluster // nil for the fake
	fake    *store.Fake
}

// forEach runs a test against the fake and every version of etcd.
func forEach(t *testing.T, cfg storetest.Config, test func(t *testing.T, r rig)) {
	t.Parallel()
	t.Run("fake", func(t *testing.T) {
		t.Parallel()
		fake := store.NewFake()
		test(t, rig{client: fake, fake: fake})
	})
	forEachEtcd(t, cfg, func(t *testing.T, c *storetest.Cluster) {
		test(t, rig{client: open(t, config(c)), cluster: c})
	})
}

func forEachEtcd(t *testing.T, cfg storetest.Config, test func(t *testing.T, c *storetest.Cluster)) {
	for _, cfg.Version = range storetest.Versions() {
		t.Run("etcd-"+cfg.Version, func(t *testing.T) {
			t.Parallel()
			test(t, storetest.Start(t, cfg))
		})
	}
}

// config returns how to reach a cluster.
func config(c *storetest.Cluster) store.Config {
	return store.Config{Endpoints: c.Endpoints(), CA: c.CA, Cert: c.Cert, Key: c.Key, User: c.User, Password: c.Password}
}

func open(t testing.TB, cfg store.Config) *store.Store {
	t.Helper()
	s, err := store.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// peer returns another host's client of the same store.
func (r rig) peer(t testing.TB) client {
	t.Helper()
	if r.fake != nil {
		return r.fake.Peer()
	}
	return open(t, config(r.cluster))
}

// down stops the store, up starts it again.
func (r rig) down() {
	if r.fake != nil {
		r.fake.SetDown(true)
		return
	}
	r.cluster.Stop()
}

func (r rig) up() {
	if r.fake != nil {
		r.fake.SetDown(false)
		return
	}
	r.cluster.StartAll()
}

func (r rig) compact() {
	if r.fake != nil {
		r.fake.Compact()
		return
	}
	r.cluster.Compact()
}

func (r rig) wipe() {
	if r.fake != nil {
		r.fake.Wipe()
		return
	}
	r.cluster.Wipe()
}

// backup returns how to restore what the store holds now.
func (r rig) backup() (restore func()) {
	if r.fake != nil {
		m := r.fake.Clone()
		return func() { r.fake.Restore(m) }
	}
	file := r.cluster.Snapshot()
	return func() { r.cluster.Restore(file) }
}

func commit(t testing.TB, c client, txn store.Txn) store.Result {
	t.Helper()
	res, err := c.Commit(t.Context(), txn)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// put is repeated for ten seconds, which changes nothing: on a busy machine a member may
// take longer for a login than a client waits.
func put(t testing.TB, c client, key, value string) int64 {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; {
		res, err := c.Commit(t.Context(), store.Txn{Then: []store.Op{store.Put(key, []byte(value))}})
		if err == nil {
			return res.Rev
		}
		if passing := errors.Is(err, store.ErrDown) || errors.Is(err, store.ErrUnknown); !passing || time.Now().After(end) {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func get(t testing.TB, c client, key string) store.KV {
	t.Helper()
	kv, _, err := c.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

// eventually waits for a condition.
func eventually(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	storetest.Eventually(t, limit, what, func() error {
		if !ok() {
			return errors.New("not yet")
		}
		return nil
	})
}

// within returns a context for one request.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// mirror is a state kept by a watch.
type mirror struct {
	mu      sync.Mutex
	kvs     map[string]store.KV
	rev     int64
	resets  int
	batches int
	faults  []string
}

// watch keeps a mirror of a prefix until the test ends.
func watch(t testing.TB, c client, prefix string) *mirror {
	t.Helper()
	m := &mirror{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Watch(ctx, prefix, m.take) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch: %v", err)
		}
		for _, f := range m.faults {
			t.Error(f)
		}
	})
	return m
}

func (m *mirror) take(u store.Update) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.batches++
	switch {
	case u.Reset:
		m.kvs, m.resets = make(map[string]store.KV), m.resets+1
	case m.resets == 0:
		m.faults = append(m.faults, "the watch does not begin with a Reset")
	case u.Rev <= m.rev:
		m.faults = append(m.faults, fmt.Sprintf("revision %d after %d", u.Rev, m.rev))
	}
	m.rev = u.Rev
	for _, kv := range u.Puts {
		if old := m.kvs[kv.Key]; old.Rev >= kv.Rev {
			m.faults = append(m.faults, fmt.Sprintf("%s: revision %d after %d", kv.Key, kv.Rev, old.Rev))
		}
		m.kvs[kv.Key] = kv
	}
	for _, kv := range u.Deletes {
		if slices.ContainsFunc(u.Puts, func(p store.KV) bool { return p.Key == kv.Key }) {
			m.faults = append(m.faults, kv.Key+" is put and deleted in one batch")
		}
		delete(m.kvs, kv.Key)
	}
}

func (m *mirror) list() []store.KV {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Values(m.kvs), func(a, b store.KV) int {
		if a.Key < b.Key {
			return -1
		}
		return 1
	})
}

func (m *mirror) resetCount() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.resets
}

// catchUp waits until the mirror is what the store holds.
func (m *mirror) catchUp(t testing.TB, c client, prefix string) {
	t.Helper()
	storetest.Eventually(t, 10*time.Second, "the watch catches up", func() error {
		snap, err := c.Read(t.Context(), prefix)
		if err != nil {
			return err
		}
		if diff := different(m.list(), snap.KVs); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
}

package ipam_test

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
	"github.com/weft-net/weft/ipam"
)

// member is one host of a cluster: its journal, its membership and its IPAM.
type member struct {
	*ipam.IPAM
	tb      testing.TB
	name    string
	dir     string
	store   cluster.Store
	leader  bool // Swarm's leader gives the addresses
	address netip.Addr
	answers func(netip.Addr) bool // nil: nothing does
	line    func(*ipam.Config)    // nil: there is none
	cluster *cluster.Cluster
	journal *journal.Journal
	told    atomic.Pointer[[]ipam.Conflict] // what Conflicts said when OnConflict was called
	stop    func()
}

// newMember starts a host on a store.
func newMember(tb testing.TB, name string, s cluster.Store, change ...func(*member)) *member {
	tb.Helper()
	m := &member{tb: tb, name: name, dir: tb.TempDir(), store: s, address: netip.AddrFrom4([4]byte{198, 51, 100, name[len(name)-1]})}
	for _, c := range change {
		c(m)
	}
	m.start()
	tb.Cleanup(func() { m.halt() })
	return m
}

// start begins a run of the host on what its journal has.
func (m *member) start() {
	m.tb.Helper()
	fatal := func(err error) {
		m.tb.Helper()
		if err != nil {
			m.tb.Fatal(err)
		}
	}
	var err error
	m.journal, err = journal.Open(filepath.Join(m.dir, "journal.db"))
	fatal(err)
	id, _, err := cluster.LoadIdentity(m.journal, cluster.Fingerprint{})
	fatal(err)
	var book *ipam.IPAM
	m.cluster = cluster.New(cluster.Config{
		Store: m.store, Journal: m.journal, Identity: id, Name: m.name,
		Renew:    func(ctx context.Context, op journal.Op, id ownership.Host) error { return book.Renew(ctx, op, id) },
		OnChange: func() { book.Poke() },
		Keeps:    func() bool { return book.Keeps() },
		Describe: func() cluster.Host { return cluster.Host{Address: m.address} },
		Answers: func(a netip.Addr, _ time.Duration) (bool, error) {
			return m.answers != nil && m.answers(a), nil
		},
	})
	cfg := ipam.Config{Journal: m.journal, Seed: seed, Cluster: m.cluster, Leader: m.leader, OnConflict: func() {
		now := book.Conflicts()
		m.told.Store(&now)
	}}
	if m.line != nil {
		m.line(&cfg)
	}
	book, err = ipam.New(cfg)
	fatal(err)
	m.IPAM = book
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = m.cluster.Run(ctx) })
	wg.Go(func() { _ = book.Run(ctx) })
	j := m.journal
	m.stop = func() {
		cancel()
		wg.Wait()
		_ = j.Close()
	}
}

// halt ends the run; it may be repeated.
func (m *member) halt() {
	if m.stop != nil {
		m.stop()
		m.stop = nil
	}
}

func (m *member) restart() {
	m.halt()
	m.start()
}

// pool requests a pool, with its gateway.
func (m *member) pool(subnet string, more ...string) string {
	m.tb.Helper()
	req := ipam.PoolRequest{Space: ipam.LocalSpace}
	if subnet != "" {
		req.Subnet = prefix(subnet)
	}
	if len(more) > 0 {
		req.Range = prefix(more[0])
	}
	p, err := m.RequestPool(context.Background(), req)
	if err != nil {
		m.tb.Fatalf("%s: %v", m.name, err)
	}
	if _, err := m.RequestAddress(context.Background(), ipam.AddressRequest{PoolID: p.ID, Gateway: true}); err != nil {
		m.tb.Fatalf("%s: gateway: %v", m.name, err)
	}
	return p.ID
}

func (m *member) get(pool string) netip.Addr {
	m.tb.Helper()
	a, err := m.RequestAddress(context.Background(), ipam.AddressRequest{PoolID: pool})
	if err != nil {
		m.tb.Fatalf("%s: %v", m.name, err)
	}
	return a.Addr()
}

func (m *member) explicit(pool, addr string) error {
	_, err := m.RequestAddress(context.Background(), ipam.AddressRequest{PoolID: pool, Address: netip.MustParseAddr(addr)})
	return err
}

// awaitMember waits until the host may change owners.
func (m *member) awaitMember() {
	m.tb.Helper()
	eventually(m.tb, m.name+" is a member", func() bool { return m.cluster.Ready() == nil })
}

// awaitKnows waits until the host's journal knows n other hosts.
func (m *member) awaitKnows(n int) {
	m.tb.Helper()
	eventually(m.tb, fmt.Sprintf("%s knows %d hosts", m.name, n), func() bool {
		id, _, err := cluster.LoadIdentity(m.journal, cluster.Fingerprint{})
		return err == nil && len(id.Known) == n
	})
}

// remove removes another host, which is said to be powered off.
func (m *member) remove(host string) error {
	_, err := m.cluster.RemoveHost(context.Background(), cluster.Removal{Name: host, PoweredOff: true})
	return err
}

// inside reports whether the store says that the host is a member of a pool.
func (m *member) inside(subnet string) bool {
	p, ok := m.cluster.Known(ipam.DomainCluster, prefix(subnet))
	return ok && slices.Contains(p.Members, m.cluster.Me())
}

// eventually waits for a condition.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("never: %s", what)
		}
	}
}

// stays checks that a condition holds for a while: for what must never happen, long
// enough for the host's background work to do it.
func stays(tb testing.TB, what string, d time.Duration, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if !ok() {
			tb.Fatalf("no longer: %s", what)
		}
	}
}

// records reads what the store has below a prefix.
func records(tb testing.TB, s *store.Fake, prefix string) []store.KV {
	tb.Helper()
	snap, err := s.Read(context.Background(), prefix)
	if err != nil {
		tb.Fatal(err)
	}
	return snap.KVs
}

// ownedBy returns how many addresses the store says that a host owns. Records that
// cannot be read do not count.
func ownedBy(tb testing.TB, s *store.Fake, h ownership.Host) (n int) {
	tb.Helper()
	for _, kv := range records(tb, s, "own/") {
		if rec, err := ownership.Decode(kv.Value); err == nil {
			n += rec.Owned[h].Count()
		}
	}
	return n
}

// hooked is one host's view of a fake store whose calls a test can hold up, count and
// break. Hooks run on the goroutine of the call.
type hooked struct {
	*store.Fake
	// latency is how long every call takes.
	latency time.Duration

	mu      sync.Mutex
	commits []commitHook
	get     func(key string)
	watch   func(prefix string)
}

// commitHook stands for the transactions that change a key of prefix; do commits.
type commitHook struct {
	prefix string
	fn     func(ctx context.Context, t store.Txn, do func() (store.Result, error)) (store.Result, error)
}

func newHooked(f *store.Fake) *hooked { return &hooked{Fake: f.Peer()} }

// onCommit replaces the hook of a prefix; nil ends it.
func (h *hooked) onCommit(prefix string, fn func(context.Context, store.Txn, func() (store.Result, error)) (store.Result, error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.commits = slices.DeleteFunc(slices.Clone(h.commits), func(c commitHook) bool { return c.prefix == prefix })
	if fn != nil {
		h.commits = append(h.commits, commitHook{prefix, fn})
	}
}

// breaks makes transactions of a prefix fail.
func (h *hooked) breaks(prefix string, err error) {
	h.onCommit(prefix, func(context.Context, store.Txn, func() (store.Result, error)) (store.Result, error) {
		return store.Result{}, err
	})
}

// onGet calls fn with what was read and not answered yet.
func (h *hooked) onGet(fn func(key string)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.get = fn
}

// onUpdate calls fn before a watch of a prefix tells its news.
func (h *hooked) onUpdate(fn func(prefix string)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watch = fn
}

func (h *hooked) pause(ctx context.Context) {
	if h.latency > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(h.latency):
		}
	}
}

func (h *hooked) Commit(ctx context.Context, t store.Txn) (store.Result, error) {
	h.pause(ctx)
	do := func() (store.Result, error) { return h.Fake.Commit(ctx, t) }
	h.mu.Lock()
	hooks := h.commits
	h.mu.Unlock()
	for _, c := range hooks {
		if touches(t, c.prefix) {
			return c.fn(ctx, t, do)
		}
	}
	return do()
}

func (h *hooked) Get(ctx context.Context, key string) (store.KV, int64, error) {
	h.pause(ctx)
	kv, rev, err := h.Fake.Get(ctx, key)
	h.mu.Lock()
	fn := h.get
	h.mu.Unlock()
	if fn != nil {
		fn(key)
	}
	return kv, rev, err
}

func (h *hooked) Read(ctx context.Context, prefix string) (store.Snapshot, error) {
	h.pause(ctx)
	return h.Fake.Read(ctx, prefix)
}

func (h *hooked) Watch(ctx context.Context, prefix string, fn func(store.Update)) error {
	return h.Fake.Watch(ctx, prefix, func(u store.Update) {
		h.mu.Lock()
		before := h.watch
		h.mu.Unlock()
		if before != nil {
			before(prefix)
		}
		fn(u)
	})
}

// touches reports whether a transaction changes a key of a prefix.
func touches(t store.Txn, prefix string) bool {
	return slices.ContainsFunc(t.Then, func(op store.Op) bool { return strings.HasPrefix(op.Key, prefix) })
}

// gate holds up whoever passes it, until it is opened. The end of the test opens it, so
// make it after the members that it holds up.
type gate struct {
	held atomic.Int64 // how many came while it was closed
	end  chan struct{}
	once sync.Once
}

func newGate(tb testing.TB) *gate {
	g := &gate{end: make(chan struct{})}
	tb.Cleanup(g.open)
	return g
}

func (g *gate) open() { g.once.Do(func() { close(g.end) }) }

// pass waits for the gate. It reports whether it was closed.
func (g *gate) pass() bool {
	select {
	case <-g.end:
		return false
	default:
	}
	g.held.Add(1)
	<-g.end
	return true
}

// await waits until the gate holds somebody up.
func (g *gate) await(tb testing.TB, what string) {
	tb.Helper()
	eventually(tb, what, func() bool { return g.held.Load() > 0 })
}

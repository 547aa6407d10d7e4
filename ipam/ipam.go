package ipam

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/journal"
)

// Config is what an [IPAM] needs to know.
type Config struct {
	// Journal keeps everything that was answered. It is required, and the IPAM is
	// the only user of its buckets that begin with "ipam-".
	Journal *journal.Journal
	// Seed, the host's UUID, makes this host's IPv6 pools differ from those of
	// other hosts. It is required.
	Seed string
	// Pools is where dynamic pools come from; see [ParsePools]. A family that it
	// does not name keeps Docker's defaults.
	Pools []Block
	// Routes returns the host's on-link routes, which dynamic pools avoid. It is
	// called in RequestPool and must be quick; nil means none.
	Routes func() []netip.Prefix
	// Holders is what [IPAM.CollectLeaks] asks; nil means that nobody knows.
	Holders func(ctx context.Context) (Holders, error)
	// Cluster shares pools with other hosts; nil means that every pool is this
	// host's alone. With one, [IPAM.Run] has to run, and OnChange of the cluster has
	// to call [IPAM.Poke].
	Cluster *cluster.Cluster
	// Network returns the pools of the cluster's network of a name; known is false if
	// there is none. An error says that nobody can tell now. nil means that this host is
	// in no cluster.
	Network func(ctx context.Context, name string) (pools NetworkPools, known bool, err error)
	// OnLine reports whether a network is on a line of its own, so that another one may
	// have an equal subnet. It may be called with locks held, must be quick and must not
	// call the IPAM; nil means that none is.
	OnLine func(network string) bool
	// Prober asks who has an address before it is used for the first time, on the device
	// that Line returns: the one on whose line a network's containers are machines among
	// others, "" if they are on none. Line may be called with locks held, must be quick and
	// must not call the IPAM. nil means that nobody is asked; with a Prober, Line is
	// required and [IPAM.Run] has to run.
	Prober Prober
	Line   func(network string) (device string)
	// Follow is called before an address of a network's is chosen for a container, without
	// locks: Line may return another device after it than before, and the address is to be
	// asked for where the container will be. nil means that networks stay where they are.
	Follow func(ctx context.Context, network string)
	// Leader says that addresses of Swarm networks come from Swarm's leader, which asks
	// the driver of its own host in [GlobalSpace] (WEFT_SCOPE=global).
	Leader bool
	// Blind says that the journal is new although addresses may be in use that an
	// older one gave out: nothing is handed out before Holders, which is required
	// then, has said which. [IPAM.Run] asks.
	Blind bool
	// OnConflict is called from Run when [IPAM.Conflicts] gives another answer than
	// before, which may be some already at the start. It may call the IPAM and must be
	// quick; nil means that nobody wants to know.
	OnConflict func()
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Logger gets what an operator should know; nil means silence.
	Logger *slog.Logger
}

// An IPAM hands out pools and addresses. It is safe for concurrent use.
type IPAM struct {
	cfg    Config
	blocks []Block
	// sharedBlocks are those of networks that hosts share.
	sharedBlocks []Block

	// gate is held once by a call that changes one address and whole by a call
	// that changes a pool, each until its records are durable.
	gate *semaphore.Weighted

	mu    sync.Mutex
	books map[bookKey]*book
	pools map[token]*pool
	next  token
	// unfinished are writes that failed or whose outcome is unknown.
	unfinished []write
	// suspects is what the last complete answer of Holders lacked.
	suspects map[suspect]time.Time
	wake     chan struct{}
	// joins counts the RequestPool calls that are about to become members.
	joins int
	// strangers are addresses in use that the journal does not know; blind says that
	// they are not known yet.
	strangers map[netip.Addr]bool
	blind     bool
	// told are the conflicts of which OnConflict knows. Only Run uses it.
	told []Conflict
	// hostHas are the addresses of this host itself.
	hostHas map[netip.Addr]bool
	linesUp map[string]int // see LinesUp
	// wakeProbes lets the probing look for work.
	wakeProbes chan struct{}
}

// pool is one answered RequestPool.
type pool struct {
	id   poolID
	book *book
	rec  poolRecord
	// asked is when somebody asked for any address last; queue are the requests for any
	// that wait for a probe, in their order; surveyed says that what it had at the start is
	// asked for. Only pools on a line use them.
	asked    time.Time
	queue    []*proof
	surveyed *line
}

// write is a change of the journal and what follows in memory when it is done.
type write struct {
	ops  []journal.Op
	done func()
}

// whole is the weight of the gate.
const whole = 1 << 30

// New returns an IPAM that knows everything the journal does.
func New(cfg Config) (*IPAM, error) {
	if cfg.Journal == nil || cfg.Seed == "" {
		return nil, refuse(ErrConfig, "set both", "the IPAM needs a journal and a seed")
	}
	if cfg.Blind && cfg.Holders == nil {
		return nil, refuse(ErrConfig, "set Holders", "a blind IPAM has to ask somebody")
	}
	if cfg.Prober != nil && cfg.Line == nil {
		return nil, refuse(ErrConfig, "set Line", "a prober has to know the lines")
	}
	if cfg.Routes == nil {
		cfg.Routes = func() []netip.Prefix { return nil }
	}
	if cfg.OnLine == nil {
		cfg.OnLine = func(string) bool { return false }
	}
	if cfg.Follow == nil {
		cfg.Follow = func(context.Context, string) {}
	}
	if cfg.OnConflict == nil {
		cfg.OnConflict = func() {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	m := &IPAM{
		cfg:    cfg,
		blocks: withDefaults(cfg.Pools, cfg.Seed),

		sharedBlocks: withDefaults(cfg.Pools, cfg.Seed, sharedDefault()),
		gate:         semaphore.NewWeighted(whole),
		books:        make(map[bookKey]*book),
		pools:        make(map[token]*pool),
		suspects:     make(map[suspect]time.Time),
		wake:         make(chan struct{}, 1),
		wakeProbes:   make(chan struct{}, 1),
		blind:        cfg.Blind,
	}
	if err := m.load(); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *IPAM) now() time.Time { return m.cfg.Now().UTC().Round(0) }

// enter takes weight of the gate, with no write unfinished.
func (m *IPAM) enter(ctx context.Context, weight int64) error {
	for {
		if err := m.gate.Acquire(ctx, weight); err != nil {
			return err
		}
		m.mu.Lock()
		clean := len(m.unfinished) == 0
		m.mu.Unlock()
		if clean {
			return nil
		}
		m.gate.Release(weight)
		if err := m.finish(ctx); err != nil {
			return err
		}
	}
}

// finish repeats the unfinished writes. The journal keeps the order of commits,
// so what was abandoned earlier cannot come after this.
func (m *IPAM) finish(ctx context.Context) error {
	if err := m.gate.Acquire(ctx, whole); err != nil {
		return err
	}
	defer m.gate.Release(whole)
	m.mu.Lock()
	var ops []journal.Op
	for _, w := range m.unfinished {
		ops = append(ops, w.ops...)
	}
	m.mu.Unlock()
	if err := m.cfg.Journal.Commit(ctx, ops...); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.unfinished {
		w.done()
	}
	m.unfinished = nil
	return nil
}

// commit writes w and then calls w.done. When the outcome is unknown, otherwise
// is what the next call has to write first.
func (m *IPAM) commit(ctx context.Context, w, otherwise write) error {
	err := m.cfg.Journal.Commit(ctx, w.ops...)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.unfinished = append(m.unfinished, otherwise)
		return err
	}
	w.done()
	return nil
}

// step is what a call that changes one address does next: with a w, write it;
// with only a busy, wait until that is closed and ask again; with neither,
// nothing.
type step struct {
	busy chan struct{}
	// wait, if not 0, bounds the wait for busy.
	wait         time.Duration
	w, otherwise write
}

// settle calls next, with mu held, until there is nothing to wait for.
func (m *IPAM) settle(ctx context.Context, next func() (step, error)) error {
	for {
		if err := m.enter(ctx, 1); err != nil {
			return err
		}
		m.mu.Lock()
		s, err := next()
		m.mu.Unlock()
		if err == nil && s.w.done != nil {
			err = m.commit(ctx, s.w, s.otherwise)
			close(s.busy)
			m.gate.Release(1)
			return err
		}
		m.gate.Release(1)
		if err != nil || s.busy == nil {
			return err
		}
		// The gate is open meanwhile: if the write that this waits for fails, the
		// next enter finishes it.
		if err := s.await(ctx); err != nil {
			return err
		}
	}
}

// await waits for what a step waits for.
func (s step) await(ctx context.Context) error {
	var late <-chan time.Time
	if s.wait > 0 {
		timer := time.NewTimer(s.wait)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-s.busy:
	case <-late:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// Poke lets Run look at the cluster.
func (m *IPAM) Poke() { m.poke() }

// lookup returns the pool of a PoolID; [ErrUnknownPool] if there is none. The
// caller holds mu.
func (m *IPAM) lookup(id string) (*pool, error) {
	parsed, err := parsePoolID(id)
	if err != nil {
		return nil, err
	}
	p, ok := m.pools[parsed.token]
	if !ok || p.id != parsed {
		return nil, refuse(ErrUnknownPool, "the pool was released or its record is lost: remove and create the network again", "%s", id)
	}
	return p, nil
}

// tokensOf returns the pools on one book, oldest first.
func (m *IPAM) tokensOf(key bookKey) []*pool {
	var out []*pool
	for _, t := range slices.Sorted(maps.Keys(m.pools)) {
		if p := m.pools[t]; p.id.bookKey == key {
			out = append(out, p)
		}
	}
	return out
}

// sorted returns all pools by space, domain, subnet and token.
func (m *IPAM) sorted() []*pool {
	return slices.SortedFunc(maps.Values(m.pools), func(a, b *pool) int {
		return cmp.Or(
			cmp.Compare(a.id.space, b.id.space),
			cmp.Compare(a.id.domain, b.id.domain),
			a.id.subnet.Addr().Compare(b.id.subnet.Addr()),
			cmp.Compare(a.id.subnet.Bits(), b.id.subnet.Bits()),
			cmp.Compare(a.id.token, b.id.token),
		)
	})
}

package store

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Status is what is known without asking anybody.
type Status struct {
	Endpoints []string  // all of them, in the order of the setting
	Prefix    string    // of all keys, with the slash at its end
	Member    string    // the endpoint in use, "" while down
	Up        bool      // whether a quorum answers
	Why       string    // why it is down, in a user's words
	Since     time.Time // since when it is up or down
	Rev       int64     // the highest revision seen
	ClusterID uint64    // etcd's own, 0 before the first answer
}

// A Store is a client of etcd. It is safe for concurrent use.
type Store struct {
	endpoints []string // in the order of the setting
	prefix    string
	members   []*member // in an order of this process
	log       *slog.Logger
	onChange  func(up bool)

	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
	kick   chan struct{} // asks the health loop to look now

	mu      sync.Mutex
	state   state
	changed chan struct{} // closed and replaced with every round

	rev     atomic.Int64
	cluster atomic.Uint64
}

// state is what the health loop knows. Before its first verdict there is neither
// a session nor a reason.
type state struct {
	session *session
	down    error // why, with ErrDown
	since   time.Time
	round   uint64 // counts verdicts, also those that change nothing
}

// Open begins to look for the store and does not wait for it. Only a setting that
// cannot work is an error, [ErrConfig].
func Open(cfg Config) (*Store, error) {
	t, err := cfg.parse()
	if err != nil {
		return nil, err
	}
	s := &Store{
		endpoints: t.endpoints, prefix: t.prefix, log: cfg.Logger, onChange: cfg.OnChange,
		done: make(chan struct{}), kick: make(chan struct{}, 1), changed: make(chan struct{}),
		state: state{since: time.Now()},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	for _, i := range rand.Perm(len(t.endpoints)) { // so that hosts spread over the members
		ep := t.endpoints[i]
		m := &member{endpoint: ep, config: clientConfig(s.ctx, cfg, t, ep)}
		if t.secure {
			m.tls = cfg.tls
		}
		s.members = append(s.members, m)
	}
	go s.run()
	return s, nil
}

// Close ends everything that is under way and waits for the loop. Keys of
// [Store.Live] go away with their leases: end Live before.
func (s *Store) Close() error {
	s.cancel()
	<-s.done
	return nil
}

// Up says whether a quorum answers.
func (s *Store) Up() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.session != nil
}

// Status returns what is known; it asks nobody.
func (s *Store) Status() Status {
	s.mu.Lock()
	st := s.state
	s.mu.Unlock()
	out := Status{
		Endpoints: slices.Clone(s.endpoints), Prefix: s.prefix, Up: st.session != nil, Since: st.since,
		Rev: s.rev.Load(), ClusterID: s.cluster.Load(),
	}
	switch {
	case out.Up:
		out.Member = st.session.member.endpoint
	case st.down != nil:
		out.Why = reason(st.down)
	default:
		out.Why = "no endpoint has answered yet"
	}
	return out
}

// session returns the connection in use. While the store is known to be down it
// fails at once; before anything is known it waits for the first verdict.
func (s *Store) session(ctx context.Context) (*session, error) {
	for {
		st, changed := s.look()
		switch {
		case st.session != nil:
			return st.session, nil
		case st.down != nil:
			return nil, st.down
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, s.problem(ErrDown, "", ctx.Err())
		}
	}
}

// awaitUp waits for a connection, however long it takes. It returns nil and no
// error when ctx has ended.
func (s *Store) awaitUp(ctx context.Context) (*session, error) {
	for {
		st, changed := s.look()
		if st.session != nil && ctx.Err() == nil {
			return st.session, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, nil
		case <-s.done:
			return nil, s.problem(ErrDown, "", ErrClosed)
		}
	}
}

// settle makes the health loop look and waits for its verdict. It returns whether
// another attempt makes sense.
func (s *Store) settle(ctx context.Context) bool {
	before, _ := s.look()
	select {
	case s.kick <- struct{}{}:
	default:
	}
	for {
		st, changed := s.look()
		if st.round != before.round {
			return st.session != nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

func (s *Store) look() (state, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.changed
}

// seen takes notes from an answer.
func (s *Store) seen(sess *session, h *pb.ResponseHeader) {
	if h == nil {
		return
	}
	raise(&s.rev, h.Revision)
	raise(&sess.rev, h.Revision)
	s.cluster.Store(h.ClusterId)
}

func raise(v *atomic.Int64, to int64) {
	for old := v.Load(); old < to && !v.CompareAndSwap(old, to); old = v.Load() {
	}
}

// withDeadline gives a request that has no deadline one.
func withDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, requestTimeout)
}

// until ends a request when its connection is given up; the cause tells.
func until(ctx, end context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(end, func() { cancel(errAbandoned) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

func (s *Store) full(key string) string { return s.prefix + key }

func (s *Store) bare(key []byte) string { return strings.TrimPrefix(string(key), s.prefix) }

func (s *Store) String() string { return fmt.Sprintf("etcd %s", strings.Join(s.endpoints, ",")) }

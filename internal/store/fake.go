package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// A Fault is what happens to one Commit of a [Fake].
type Fault int

// What can happen to a Commit.
const (
	// FaultNone lets it pass, as if nothing were queued.
	FaultNone Fault = iota
	// FaultLost fails with ErrUnknown and never happens.
	FaultLost
	// FaultApplied fails with ErrUnknown although it happened.
	FaultApplied
	// FaultLater fails with ErrUnknown and happens at Deliver.
	FaultLater
	// FaultSlow is answered at Deliver. When its context ends before, it fails with
	// ErrUnknown and still happens at Deliver.
	FaultSlow
	// FaultReadOnly fails with ErrReadOnly.
	FaultReadOnly
	// FaultDown fails with ErrDown, without the store being known to be down.
	FaultDown
)

// Fake is a store without a server. It takes the same calls as [Store], refuses
// the same requests, and fails as it is told. It has no clock: nothing happens
// by itself. Make it with [NewFake].
type Fake struct {
	*shared
	down     bool
	since    time.Time
	faults   []Fault
	onChange []func(up bool)
}

// shared is what all peers see: the server.
type shared struct {
	mu       sync.Mutex
	memory   *Memory
	epoch    int // counts restores and leases that ended: watchers list again
	readOnly bool
	held     []*heldTxn
	live     map[*liveKey]struct{}
	changed  chan struct{} // closed at every change
}

type heldTxn struct {
	txn    Txn
	answer chan Result
}

type liveKey struct {
	key   string
	value []byte
	owner *Fake
	rev   int64 // as it was put last
}

// NewFake returns an empty store that is up.
func NewFake() *Fake {
	return &Fake{shared: &shared{memory: NewMemory(), live: make(map[*liveKey]struct{}), changed: make(chan struct{})}, since: time.Now()}
}

// Peer returns another host's view of the same records, with faults of its own.
func (f *Fake) Peer() *Fake { return &Fake{shared: f.shared, since: time.Now()} }

// OnChange calls fn whenever the store goes down or comes back, as Config.OnChange.
func (f *Fake) OnChange(fn func(up bool)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onChange = append(f.onChange, fn)
}

// SetDown makes the store known to be down for this peer, or brings it back.
func (f *Fake) SetDown(down bool) {
	f.mu.Lock()
	changed := f.down != down
	f.down = down
	if changed {
		f.since = time.Now()
	}
	f.refresh()
	calls := slices.Clone(f.onChange)
	f.mu.Unlock()
	for _, fn := range calls {
		if changed {
			fn(!down)
		}
	}
}

// SetReadOnly makes every peer's puts fail with ErrReadOnly, as a full etcd does.
func (f *Fake) SetReadOnly(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readOnly = on
}

// Inject queues what happens to the next Commits of this peer, one each.
func (f *Fake) Inject(faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, faults...)
}

// Deliver lets all held Commits happen, in their order, and returns how they ended.
func (f *Fake) Deliver() []Result {
	f.mu.Lock()
	defer f.mu.Unlock()
	var results []Result
	for _, h := range f.held {
		r := f.memory.Apply(h.txn)
		h.answer <- r
		results = append(results, r)
	}
	f.held = nil
	f.refresh()
	return results
}

// Drop loses all held Commits for good and returns how many there were.
func (f *Fake) Drop() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.held)
	for _, h := range f.held {
		close(h.answer)
	}
	f.held = nil
	return n
}

// Held returns how many Commits wait for Deliver or Drop.
func (f *Fake) Held() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.held)
}

// Clone returns a backup of the records.
func (f *Fake) Clone() *Memory {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.memory.Clone()
}

// Restore replaces the records by those of a backup. Watches begin again.
func (f *Fake) Restore(backup *Memory) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.memory = backup.Clone()
	f.epoch++
	f.refresh()
}

// Wipe makes the store empty and new.
func (f *Fake) Wipe() { f.Restore(NewMemory()) }

// Compact forgets the history; watches that are behind begin again.
func (f *Fake) Compact() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.memory.Compact(f.memory.Rev())
}

// ExpireLeases takes all keys of Live away, as when their leases end during an
// outage. Peers that are up make theirs again.
func (f *Fake) ExpireLeases() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for l := range f.live {
		f.drop(l)
	}
	f.refresh()
}

// refresh lets the keys of Live follow and wakes whoever waits for a change.
func (f *Fake) refresh() {
	for l := range f.live {
		if !l.owner.down && f.memory.Get(l.key).Rev == 0 {
			l.rev = f.memory.Apply(Txn{Then: []Op{Put(l.key, l.value)}}).Rev
		}
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

// drop deletes a key of Live, unless somebody else has put it since.
func (f *Fake) drop(l *liveKey) {
	f.memory.Apply(Txn{If: []Cond{Unchanged(l.key, l.rev)}, Then: []Op{Delete(l.key)}})
}

func (f *Fake) problem(ctx context.Context, doing string) error {
	if f.down {
		return fmt.Errorf("%s: %w: the fake is set down", doing, ErrDown)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w: %w", doing, ErrDown, err)
	}
	return nil
}

// Commit is that of Store.
func (f *Fake) Commit(ctx context.Context, t Txn) (Result, error) {
	if err := t.Check(); err != nil {
		return Result{}, err
	}
	f.mu.Lock()
	if err := f.problem(ctx, "commit"); err != nil {
		f.mu.Unlock()
		return Result{}, err
	}
	fault := FaultNone
	if len(f.faults) > 0 {
		fault, f.faults = f.faults[0], f.faults[1:]
	}
	if f.readOnly && slices.ContainsFunc(t.Then, func(op Op) bool { return !op.Delete }) {
		fault = FaultReadOnly
	}
	h := &heldTxn{txn: t, answer: make(chan Result, 1)}
	res, err := f.commit(h, fault)
	f.mu.Unlock()
	if fault != FaultSlow {
		return res, err
	}
	select {
	case res, ok := <-h.answer:
		if !ok {
			return Result{}, fmt.Errorf("commit: %w: dropped", ErrUnknown)
		}
		return res, nil
	case <-ctx.Done():
		return Result{}, fmt.Errorf("commit: %w: %w", ErrUnknown, ctx.Err())
	}
}

// commit does to a Txn what the fault says.
func (f *Fake) commit(h *heldTxn, fault Fault) (Result, error) {
	switch fault {
	case FaultLost:
		return Result{}, fmt.Errorf("commit: %w: injected", ErrUnknown)
	case FaultApplied:
		f.memory.Apply(h.txn)
		f.refresh()
		return Result{}, fmt.Errorf("commit: %w: injected", ErrUnknown)
	case FaultLater, FaultSlow:
		f.held = append(f.held, h)
		return Result{}, fmt.Errorf("commit: %w: injected", ErrUnknown)
	case FaultReadOnly:
		return Result{}, fmt.Errorf("commit: %w", ErrReadOnly)
	case FaultDown:
		return Result{}, fmt.Errorf("commit: %w: injected", ErrDown)
	default:
		res := f.memory.Apply(h.txn)
		f.refresh()
		return res, nil
	}
}

// Read is that of Store.
func (f *Fake) Read(ctx context.Context, prefix string) (Snapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.problem(ctx, "read "+prefix); err != nil {
		return Snapshot{}, err
	}
	return f.memory.List(prefix), nil
}

// Get is that of Store.
func (f *Fake) Get(ctx context.Context, key string) (KV, int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := errors.Join(checkKey(key), f.problem(ctx, "get "+key)); err != nil {
		return KV{}, 0, err
	}
	return f.memory.Get(key), f.memory.Rev(), nil
}

// Watch is that of Store.
func (f *Fake) Watch(ctx context.Context, prefix string, fn func(Update)) error {
	var rev int64 // 0: begin again
	for epoch := 0; ctx.Err() == nil; {
		f.mu.Lock()
		if f.epoch != epoch || f.down {
			epoch, rev = f.epoch, 0
		}
		var u Update
		if !f.down {
			u = f.memory.Since(rev, prefix)
			rev = u.Rev
		}
		changed := f.changed
		f.mu.Unlock()
		if u.Reset || len(u.Puts)+len(u.Deletes) > 0 {
			fn(u)
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	return nil
}

// Live is that of Store; the lease ends only at the end or by ExpireLeases.
func (f *Fake) Live(ctx context.Context, key string, value []byte, _ time.Duration) error {
	if err := checkKey(key); err != nil {
		return err
	}
	f.mu.Lock()
	l := &liveKey{key: key, value: value, owner: f}
	f.live[l] = struct{}{}
	if !f.down {
		l.rev = f.memory.Apply(Txn{Then: []Op{Put(key, value)}}).Rev
	}
	f.refresh()
	f.mu.Unlock()
	<-ctx.Done()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.live, l)
	f.drop(l)
	f.refresh()
	return nil
}

// Status is that of Store.
func (f *Fake) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := Status{Endpoints: []string{"fake"}, Member: "fake", Up: !f.down, Since: f.since, Rev: f.memory.Rev(), ClusterID: 1}
	if f.down {
		s.Member, s.Why = "", "the fake is set down"
	}
	return s
}

// Up is that of Store.
func (f *Fake) Up() bool { return f.Status().Up }

// Close does nothing.
func (f *Fake) Close() error { return nil }

package ipam

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// Times of the background work.
const (
	// kickEvery is the pause before what failed is tried again.
	kickEvery = 250 * time.Millisecond
	// trimEvery is how often free addresses are counted.
	trimEvery = 30 * time.Second
	// commitTime bounds one transaction; after it the outcome is unknown.
	commitTime = 5 * time.Second
)

// Run shares the pools with the other hosts until ctx ends. Without a cluster it
// only waits, after it has looked around if the IPAM is blind.
func (m *IPAM) Run(ctx context.Context) error {
	m.adopt(ctx)
	if m.cfg.Cluster == nil {
		<-ctx.Done()
		return nil
	}
	var work sync.WaitGroup
	defer work.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer m.unwatch()
	kick, trim := time.NewTicker(kickEvery), time.NewTicker(trimEvery)
	defer kick.Stop()
	defer trim.Stop()
	asks := &asks{m: m}
	defer asks.stop()
	for {
		asks.follow(ctx, &work)
		for _, do := range m.plan(ctx) {
			work.Go(do)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		case <-kick.C:
			m.each(func(sh *share) {
				sh.own.Kick()
				sh.claimConflicts()
			})
		case <-trim.C:
			m.each(m.trim)
		}
	}
}

func (m *IPAM) each(fn func(*share)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, sh := range m.shares() {
		fn(sh)
	}
}

// unwatch ends all watches.
func (m *IPAM) unwatch() {
	m.each(func(sh *share) {
		if sh.stop != nil {
			sh.stop()
			sh.stop = nil
		}
	})
}

// plan returns what can be done now, each to be run on its own.
func (m *IPAM) plan(ctx context.Context) []func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.cfg.Cluster
	verdict, back, returning, uuid := c.Verdict(), c.Back(), c.Returning(), c.UUID()
	var out []func()
	told := returning
	for _, sh := range m.shares() {
		if sh.rec.Store != uuid || verdict.Standing == cluster.Foreign {
			sh.own.SetMode(ownership.Frozen, nil)
			continue
		}
		out = append(out, m.planShare(ctx, sh, verdict, back, returning)...)
		told = told && sh.own.Settled() && !sh.rejoin && sh.recovered
	}
	if told {
		c.Told()
	}
	return out
}

// planShare returns what can be done for one share. The caller holds mu.
func (m *IPAM) planShare(ctx context.Context, sh *share, verdict cluster.Verdict, back []ownership.Host, returning bool) []func() {
	var out []func()
	mode := verdict.Standing.Mode()
	if returning && !sh.recovered {
		sh.recovered, sh.rejoin = true, true
		sh.own.Forget()
		m.rewatch(sh)
	}
	if verdict.Standing == cluster.Member {
		sh.recovered = false
	}
	if mode == ownership.Recovering && (!returning || sh.rejoin) {
		mode = ownership.Frozen
	}
	if sh.rejoin && !sh.leaving && (returning || verdict.Standing == cluster.Member) {
		sh.leaving = true
		out = append(out, func() { m.rejoinPool(ctx, sh) })
	}
	sh.own.SetMode(mode, back)
	if sh.stop == nil {
		watch, stop := context.WithCancel(ctx)
		sh.stop = stop
		out = append(out, func() { m.watch(watch, sh) })
	}
	sh.own.Close(!m.wanted(sh))
	for _, t := range sh.own.Tasks() {
		out = append(out, func() { m.do(ctx, sh, t) })
	}
	switch {
	case mode != ownership.Normal || sh.rejoin:
	case len(sh.own.Lost()) > 0:
		m.cfg.Cluster.Suspect(fmt.Sprintf("the store was restored from a backup: it does not know that this host owns %v", sh.own.Lost()[0]))
	case !m.wanted(sh) && sh.own.Empty() && !sh.leaving:
		sh.leaving = true
		out = append(out, func() { m.leave(ctx, sh) })
	}
	return out
}

// rewatch ends a share's watch; the next plan begins another one.
func (m *IPAM) rewatch(sh *share) {
	if sh.stop != nil {
		sh.stop()
		sh.stop = nil
	}
}

// watch follows the records of a share's owners.
func (m *IPAM) watch(ctx context.Context, sh *share) {
	err := m.cfg.Cluster.Watch(ctx, cluster.OwnersPrefix(sh.rec.Pool.UUID), func(u store.Update) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if ctx.Err() != nil {
			return // a watch of before a recovery
		}
		if u.Reset {
			sh.own.Reset(u.Puts, u.Rev)
		} else {
			for _, kv := range u.Puts {
				sh.own.Observe(kv)
			}
		}
		m.notify(sh)
	})
	if err != nil && ctx.Err() == nil {
		m.cfg.Logger.Warn("watch of a pool's owners", "pool", sh.rec.Pool.Subnet, "err", err)
	}
}

// do does one task of a share.
func (m *IPAM) do(ctx context.Context, sh *share, t ownership.Task) {
	if t.Entry != nil {
		for {
			err := m.cfg.Journal.Commit(ctx, sh.putOwned(t.First, *t.Entry), m.cfg.Cluster.SeenOp())
			if err == nil {
				break
			}
			m.cfg.Logger.Error("journal of the owned addresses", "err", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(kickEvery):
			}
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		sh.own.Wrote(t)
		m.notify(sh)
		return
	}
	commit, cancel := context.WithTimeout(ctx, commitTime)
	defer cancel()
	res, err := m.cfg.Cluster.Commit(commit, sh.rec.Pool, *t.Txn)
	if err != nil {
		m.cfg.Logger.Debug("a change of owners", "pool", sh.rec.Pool.Subnet, "err", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	sh.own.Committed(t, res, err)
	m.notify(sh)
}

// leave ends the membership in a pool that nobody here needs.
func (m *IPAM) leave(ctx context.Context, sh *share) {
	limited, cancel := context.WithTimeout(ctx, commitTime)
	defer cancel()
	err := m.cfg.Cluster.Leave(limited, sh.rec.Pool)
	m.mu.Lock()
	defer m.mu.Unlock()
	sh.leaving = false
	if err != nil {
		m.cfg.Logger.Debug("leave a pool", "pool", sh.rec.Pool.Subnet, "err", err)
		return // the next tick tries again
	}
	if m.wanted(sh) {
		sh.rejoin = true // somebody came back meanwhile
		m.notify(sh)
		return
	}
	m.rewatch(sh)
	delete(m.books, sh.rec.key())
	close(sh.changed)
}

// rejoinPool makes this host a member of a pool again.
func (m *IPAM) rejoinPool(ctx context.Context, sh *share) {
	limited, cancel := context.WithTimeout(ctx, commitTime)
	defer cancel()
	pool := sh.rec.Pool
	var err error
	if m.cfg.Cluster.Returning() {
		err = m.cfg.Cluster.Rejoin(limited, pool)
	} else if pool, err = m.cfg.Cluster.Join(limited, pool.Domain, pool.Subnet, nil); err == nil {
		err = m.moved(limited, sh, pool)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	sh.leaving = false
	if err != nil {
		m.cfg.Logger.Debug("join a pool again", "pool", pool.Subnet, "err", err)
		return
	}
	sh.rejoin = false
	m.notify(sh)
}

// Renew takes over a new id of this host: it owns nothing. What is in use stays so,
// as a conflict, until the new id owns the address. The identity becomes durable
// together with that.
func (m *IPAM) Renew(ctx context.Context, identity journal.Op, id ownership.Host) error {
	if err := m.enter(ctx, whole); err != nil {
		return under("new id of this host", err)
	}
	defer m.gate.Release(whole)
	owned, err := journal.Load[ownedRecord](m.cfg.Journal, bucketOwned)
	if err != nil {
		return err
	}
	ops := []journal.Op{identity}
	for key := range owned {
		ops = append(ops, journal.Delete(bucketOwned, key))
	}
	if err := m.cfg.Journal.Commit(ctx, ops...); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, sh := range m.shares() {
		m.rewatch(sh)
		m.setOwn(sh, id, nil)
		sh.rejoin = true
		m.notify(sh)
	}
	return nil
}

// claimConflicts wishes for addresses that are in use here and not this host's,
// until there are none.
func (sh *share) claimConflicts() {
	if !sh.claim || !sh.own.Synced() || sh.rejoin {
		return
	}
	clear(sh.conflicts)
	sh.claim = false
	for a, h := range sh.book.held {
		if h.kind == KindEndpoint && !sh.own.Owns(a) {
			sh.claim = true
			if !sh.own.Want(a) {
				sh.conflicts[a] = true
			}
		}
	}
}

// asks follows what other hosts ask of this one.
type asks struct {
	m    *IPAM
	of   string
	end  context.CancelFunc
	done chan struct{}
}

func (a *asks) stop() {
	if a.end != nil {
		a.end()
		<-a.done
		a.end = nil
	}
}

// follow begins to watch, anew when the host got a new id.
func (a *asks) follow(ctx context.Context, work *sync.WaitGroup) {
	prefix := a.m.cfg.Cluster.AsksPrefix()
	if a.end != nil && a.of == prefix {
		return
	}
	a.stop()
	var watch context.Context
	watch, a.end = context.WithCancel(ctx)
	a.of, a.done = prefix, make(chan struct{})
	done := a.done
	work.Go(func() {
		defer close(done)
		_ = a.m.cfg.Cluster.Watch(watch, prefix, func(u store.Update) {
			for _, kv := range u.Puts {
				a.m.answer(ctx, kv, work)
			}
		})
	})
}

// answer decides about one ask.
func (m *IPAM) answer(ctx context.Context, kv store.KV, work *sync.WaitGroup) {
	ask, err := ownership.DecodeAsk(kv)
	if err != nil {
		m.cfg.Logger.Warn("an ask that this host does not understand", "key", kv.Key, "err", err)
		return
	}
	if ask.Refused != "" {
		return
	}
	why := m.decide(ask)
	if why == "" {
		m.poke()
		return
	}
	work.Go(func() {
		limited, cancel := context.WithTimeout(ctx, commitTime)
		defer cancel()
		if err := m.cfg.Cluster.Refuse(limited, ask, why); err != nil {
			m.cfg.Logger.Debug("refuse an ask", "err", err)
		}
	})
}

// decide says why an ask is refused; "" if it is not.
func (m *IPAM) decide(ask ownership.Ask) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, sh := range m.shares() {
		if cluster.OwnersPrefix(sh.rec.Pool.UUID) != ask.Pool {
			continue
		}
		why := sh.own.Answer(ask)
		if h := sh.book.held[ask.Address]; why != "" && h != nil && h.name != "" {
			why += " by " + h.name
		}
		return why
	}
	return "it has no network on this pool any more"
}

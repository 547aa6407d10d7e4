package ipam

import (
	"context"
	"fmt"
	"slices"
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
	// sweepEvery is how often asks are looked for that nobody waits for.
	sweepEvery = 10 * time.Second
	// commitTime bounds one transaction; after it the outcome is unknown.
	commitTime = 5 * time.Second
)

// Run shares the pools with the other hosts until ctx ends, after it has looked around if
// the IPAM is blind, and probes addresses ahead of need.
func (m *IPAM) Run(ctx context.Context) error {
	var work sync.WaitGroup
	defer work.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	work.Go(func() { m.runProbes(ctx) })
	m.adopt(ctx)
	if m.cfg.Cluster == nil {
		<-ctx.Done()
		return nil
	}
	defer m.unwatch()
	kick, trim, sweep := time.NewTicker(kickEvery), time.NewTicker(trimEvery), time.NewTicker(sweepEvery)
	defer kick.Stop()
	defer trim.Stop()
	defer sweep.Stop()
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
			for _, do := range m.kick(ctx) {
				work.Go(do)
			}
			m.tellConflicts()
		case <-trim.C:
			m.each(m.trim)
		case <-sweep.C:
			work.Go(func() { m.sweepAsks(ctx) })
		}
	}
}

// kick lets what failed try again, and looks for what a share lacks. It returns what
// is to be asked of other hosts.
func (m *IPAM) kick(ctx context.Context) (asks []func()) {
	m.each(func(sh *share) {
		sh.own.Kick()
		asks = append(asks, m.claimConflicts(ctx, sh)...)
		m.reserve(sh)
	})
	return asks
}

func (m *IPAM) each(fn func(*share)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, sh := range m.shares() {
		fn(sh)
	}
}

// reserve keeps addresses at hand for the networks on a share, so that their next
// container does not need the store. Where machines have a long row of them nothing more is
// taken from the other hosts in their place before somebody asks: they may have all. The
// caller holds mu.
func (m *IPAM) reserve(sh *share) {
	if !sh.own.Open() || !m.inside(sh) {
		return
	}
	for _, p := range m.tokensOf(sh.rec.key()) {
		if p.rec.Network != "" && !m.fromLeader(p) {
			taken := 0
			if sh.book.inRow() {
				taken = int(sh.book.others(p.id.dynamic()))
			}
			m.prefetch(sh, p.id.dynamic(), taken)
		}
	}
}

// sweepAsks takes away what earlier runs of this host asked.
func (m *IPAM) sweepAsks(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, commitTime)
	defer cancel()
	if !m.cfg.Cluster.Up() || m.cfg.Cluster.Ready() != nil {
		return
	}
	if err := m.cfg.Cluster.SweepAsks(limited); err != nil {
		m.cfg.Logger.Debug("asks of earlier runs", "err", err)
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
	look := outlook{Pass: c.Pass(), up: c.Up()}
	uuid := c.UUID()
	var out []func()
	told := !m.adoptMemberships(uuid, look) && look.Epoch > 0
	for _, sh := range m.shares() {
		if sh.rec.Store != uuid || look.Standing == cluster.Foreign {
			sh.own.SetMode(ownership.Frozen, nil)
			continue
		}
		out = append(out, m.planShare(ctx, sh, look)...)
		told = told && (m.silent(sh) || sh.back == look.Epoch && (sh.own.Settled() || m.overtaken(sh)))
	}
	if told {
		c.Told(look.Epoch)
	}
	return out
}

// outlook is what the cluster lets this host do.
type outlook struct {
	cluster.Pass
	up bool
}

// member reports whether owners may change.
func (o outlook) member() bool { return o.Standing == cluster.Member && o.up }

// tells reports whether a recovering store has to be told about a share: the journal
// owns something of it, or the store gives this host what it has no more.
func (m *IPAM) tells(sh *share) bool {
	return sh.rec.By == m.me() && (sh.own.Tells() || sh.own.Named())
}

// silent reports whether there is nothing to tell about a share: this id never was a
// member of it, or neither the journal nor the store has anything of it.
func (m *IPAM) silent(sh *share) bool {
	return sh.rec.By != m.me() || sh.own.Synced() && !m.tells(sh)
}

// overtaken reports whether the store has another life of a share's pool: a host that
// told it later has that one, and nothing of this one can be told any more. What is in use
// here becomes a conflict if others have it. The caller holds mu.
func (m *IPAM) overtaken(sh *share) bool {
	p, known := m.cfg.Cluster.Known(sh.rec.Pool.Domain, sh.rec.Pool.Subnet)
	return known && p.UUID != sh.rec.Pool.UUID
}

// adoptMemberships makes shares of pools of which this host is a member and does not
// know why: a request that ended half way, a journal that was reset. They are emptied
// and left like any other that nobody wants; a recovering store is told that they are.
// It reports whether some have to wait. The caller holds mu.
func (m *IPAM) adoptMemberships(uuid string, look outlook) (pending bool) {
	if !look.member() && look.Epoch == 0 {
		return false
	}
	for _, p := range m.cfg.Cluster.PoolsOf(m.me()) {
		rec := shareRecord{Store: uuid, Pool: p, By: m.me()}
		if b := m.books[rec.key()]; b == nil || b.share == nil && len(m.tokensOf(rec.key())) == 0 {
			if m.joins > 0 {
				pending = true // one of them may be why
				continue
			}
			m.addShare(rec, nil)
		}
	}
	return pending
}

// planShare returns what can be done for one share. The caller holds mu.
func (m *IPAM) planShare(ctx context.Context, sh *share, look outlook) []func() {
	var out []func()
	if look.Epoch > 0 && sh.told != look.Epoch {
		sh.told, sh.claim = look.Epoch, true // others may have told that they own what is in use here
		sh.own.Forget()
		m.rewatch(sh)
	}
	m.ease(sh, look)
	mode, rejoin := m.modeOf(sh, look)
	if rejoin && !sh.trouble.waits(m.attempt(sh, true, look.Epoch), time.Now()) {
		sh.leaving = true
		out = append(out, func() { m.rejoin(ctx, sh, look.Epoch) })
	}
	sh.own.SetMode(mode, look.Back)
	if ready := sh.own.Open() && m.inside(sh); ready != sh.ready {
		sh.ready = ready
		m.notify(sh) // requests wait for it
	}
	if sh.stop == nil {
		watch, stop := context.WithCancel(ctx)
		sh.stop = stop
		prefix, own := ownersPrefix(sh), sh.own
		out = append(out, func() { m.watch(watch, sh, prefix, own) })
	}
	sh.own.Close(!m.wanted(sh))
	for _, t := range sh.own.Tasks() {
		sh.out++
		own, rec := sh.own, sh.rec
		out = append(out, func() { m.do(ctx, sh, own, rec, t, look.Pass) })
	}
	idle := look.member() && !sh.leaving && sh.out == 0
	switch {
	case mode == ownership.Normal && len(sh.own.Lost()) > 0:
		m.cfg.Cluster.Suspect(fmt.Sprintf("the store was restored from a backup: it does not know that this host owns %v", sh.own.Lost()[0]))
	case idle && m.unneeded(sh) && !sh.trouble.waits(m.attempt(sh, false, 0), time.Now()):
		sh.leaving = true
		out = append(out, func() { m.leave(ctx, sh) })
	}
	return out
}

// unneeded reports whether a membership can end. The caller holds mu.
func (m *IPAM) unneeded(sh *share) bool { return !m.wanted(sh) && sh.own.Empty() }

// modeOf says how much a share may do, and whether the store has to be told first that
// this host is a member. The caller holds mu.
func (m *IPAM) modeOf(sh *share, look outlook) (mode ownership.Mode, rejoin bool) {
	mode = look.Standing.Mode()
	switch {
	case sh.leaving:
		return ownership.Frozen, false
	case look.Epoch > 0 && sh.back != look.Epoch:
		return ownership.Frozen, m.tells(sh)
	case mode == ownership.Recovering && look.Epoch == 0:
		return ownership.Frozen, false
	case mode == ownership.Normal && (!m.inside(sh) || sh.doubt && m.wanted(sh)):
		return ownership.Frozen, look.member() && (m.wanted(sh) || !sh.own.Empty() || sh.out > 0)
	}
	return mode, false
}

// rewatch ends a share's watch; the next plan begins another one.
func (m *IPAM) rewatch(sh *share) {
	if sh.stop != nil {
		sh.stop()
		sh.stop = nil
	}
}

// watch follows the records of a share's owners.
func (m *IPAM) watch(ctx context.Context, sh *share, prefix string, own *ownership.Pool) {
	err := m.cfg.Cluster.Watch(ctx, prefix, func(u store.Update) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if ctx.Err() != nil {
			return // a watch of before a recovery
		}
		if u.Reset {
			own.Reset(u.Puts, u.Rev)
		} else {
			for _, kv := range u.Puts {
				own.Observe(kv)
			}
		}
		m.notify(sh)
	})
	if err != nil && ctx.Err() == nil {
		m.cfg.Logger.Warn("watch of a pool's owners", "pool", prefix, "err", err)
	}
}

// do does one task of a share's machine. Its outcome counts for nothing if the share
// has another machine by then.
func (m *IPAM) do(ctx context.Context, sh *share, own *ownership.Pool, rec shareRecord, t ownership.Task, pass cluster.Pass) {
	if t.Entry != nil {
		m.writeEntry(ctx, sh, own, rec, t)
		return
	}
	commit, cancel := context.WithTimeout(ctx, commitTime)
	defer cancel()
	res, err := m.cfg.Cluster.Commit(commit, pass, rec.Pool, *t.Txn, t.To())
	if err != nil {
		m.cfg.Logger.Debug("a change of owners", "pool", rec.Pool.Subnet, "err", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	sh.out--
	if sh.own == own {
		own.Committed(t, res, err)
	}
	m.notify(sh)
}

// writeEntry makes an entry durable. The gate keeps a new id of this host away
// meanwhile: what the old one owned must not come back.
func (m *IPAM) writeEntry(ctx context.Context, sh *share, own *ownership.Pool, rec shareRecord, t ownership.Task) {
	write := func() (bool, error) {
		if err := m.gate.Acquire(ctx, 1); err != nil {
			return false, err
		}
		defer m.gate.Release(1)
		m.mu.Lock()
		current := sh.own == own
		m.mu.Unlock()
		if !current {
			return false, nil
		}
		return true, m.cfg.Journal.Commit(ctx, rec.putOwned(t.First, *t.Entry), m.cfg.Cluster.SeenOp())
	}
	for {
		written, err := write()
		if err == nil {
			m.mu.Lock()
			defer m.mu.Unlock()
			sh.out--
			if written && sh.own == own {
				own.Wrote(t)
			}
			m.notify(sh)
			return
		}
		if ctx.Err() != nil {
			return
		}
		m.cfg.Logger.Error("journal of the owned addresses", "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(kickEvery):
		}
	}
}

// leave ends the membership in a pool that nobody here needs.
func (m *IPAM) leave(ctx context.Context, sh *share) {
	limited, cancel := context.WithTimeout(ctx, commitTime)
	defer cancel()
	m.mu.Lock()
	pool := sh.rec.Pool
	at := m.attempt(sh, false, 0)
	m.mu.Unlock()
	err := m.cfg.Cluster.Leave(limited, pool)
	m.mu.Lock()
	defer m.mu.Unlock()
	sh.leaving, sh.doubt = false, err != nil
	if err != nil {
		m.stumbled(sh, at, "leave a pool", err)
	} else if !m.wanted(sh) && m.books[sh.rec.key()] == sh.book {
		m.rewatch(sh)
		delete(m.books, sh.rec.key())
	}
	m.notify(sh) // who came back meanwhile joins again
}

// rejoin makes this host a member of a pool again: after a new id, a crash, or in the
// epoch of a recovery.
func (m *IPAM) rejoin(ctx context.Context, sh *share, epoch int) {
	limited, cancel := context.WithTimeout(ctx, commitTime)
	defer cancel()
	m.mu.Lock()
	pool := sh.rec.Pool
	at := m.attempt(sh, true, epoch)
	m.mu.Unlock()
	var err error
	if epoch > 0 {
		err = m.cfg.Cluster.Rejoin(limited, pool)
	} else if err = m.unlessLost(limited, sh); err == nil {
		if pool, err = m.cfg.Cluster.Affirm(limited, pool); err == nil {
			err = m.moved(limited, sh, pool)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	sh.leaving = false
	if err != nil {
		m.stumbled(sh, at, "join a pool again", err)
	} else {
		sh.doubt, sh.trouble = false, trouble{}
		if epoch > 0 {
			sh.back = epoch
		}
	}
	m.notify(sh)
}

// unlessLost is nil if a share may join again. A host is a member for as long as it owns
// something, and the last member takes the pool along: so a store without the pool of
// which this host owns addresses is not the one that gave them, whatever its revision.
// To join would forget what is owned, and others would get it. Only who has just told a
// recovering store, and was overtaken by a host that told another life of the pool, is
// beaten: nothing but the recovery itself could be repeated.
func (m *IPAM) unlessLost(ctx context.Context, sh *share) error {
	m.mu.Lock()
	pool := sh.rec.Pool
	owns := sh.rec.By == m.me() && sh.back == 0 && sh.own.Owned()
	m.mu.Unlock()
	if !owns {
		return nil
	}
	lost, err := m.cfg.Cluster.Lost(ctx, pool)
	if err != nil || !lost {
		return err
	}
	why := fmt.Sprintf("the store was restored from a backup: it does not know the pool %s (%s), of which this host owns addresses", pool.Subnet, pool.UUID)
	m.cfg.Cluster.Suspect(why)
	return fmt.Errorf("%w: %s", cluster.ErrNotNow, why)
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
		if m.wanted(sh) {
			m.setOwn(sh, id, nil)
		} else {
			delete(m.books, sh.rec.key()) // the new id was never a member
		}
		m.notify(sh)
	}
	return nil
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
		if p, ok := m.cfg.Cluster.Known(sh.rec.Pool.Domain, sh.rec.Pool.Subnet); !ok || !slices.Contains(p.Members, ask.From) {
			return "the host that asks is no member of the pool"
		}
		h := sh.book.held[ask.Address]
		if h == nil {
			sh.book.pardon(ask.Address) // a gateway may well be a machine's
		}
		why := sh.own.Answer(ask)
		if why != "" && h != nil && h.name != "" {
			why += " by " + h.name
		}
		return why
	}
	return "it has no network on this pool any more"
}

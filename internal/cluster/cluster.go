package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// Times of the membership.
const (
	// aliveTTL is how long a host that is cut off counts as connected.
	aliveTTL = 5 * time.Second
	// lookEvery is how often the standing is looked at without a reason.
	lookEvery = 3 * time.Second
	// lookTime bounds one look and what follows from it.
	lookTime = 5 * time.Second
	// retryEvery is the pause after a look that failed.
	retryEvery = time.Second
	// announceTime is how long connected hosts have at the beginning of a recovery to show
	// themselves; its news wake them at once.
	announceTime = time.Second
)

// Store is what the cluster needs of a store; see package store.
type Store interface {
	Commit(ctx context.Context, t store.Txn) (store.Result, error)
	Read(ctx context.Context, prefix string) (store.Snapshot, error)
	Get(ctx context.Context, key string) (store.KV, int64, error)
	Watch(ctx context.Context, prefix string, fn func(store.Update)) error
	Live(ctx context.Context, key string, value []byte, ttl time.Duration) error
	Status() store.Status
	Up() bool
}

// Config is what a [Cluster] needs to know.
type Config struct {
	Store   Store
	Journal *journal.Journal
	// Identity is from [LoadIdentity].
	Identity Identity
	// Name is the host's, for people.
	Name string
	// Describe returns what others want to know; it is asked now and then. The name
	// is filled in.
	Describe func() Host
	// Renew makes a new identity durable, together with what its user has to forget
	// of the old one. It is called at most once in a while, from Run.
	Renew func(ctx context.Context, identity journal.Op, id ownership.Host) error
	// Keeps reports whether this host keeps anything of its cluster: a pool, an address.
	// One that keeps nothing joins the cluster of another store; nil means that it does.
	Keeps func() bool
	// OnChange is called after anything changed that a caller can see. It must not
	// call back.
	OnChange func()
	// Answers reports whether an address answers from this host, after at most timeout.
	// Other hosts ask for it before one of them is removed; nil means that nothing
	// answers here.
	Answers func(a netip.Addr, timeout time.Duration) (bool, error)
	Logger  *slog.Logger
}

// A Cluster is this host's membership. It is safe for concurrent use.
type Cluster struct {
	cfg  Config
	wake chan struct{} // for follow
	live chan struct{} // for keepAlive

	mu        sync.Mutex
	id        Identity
	verdict   Verdict
	sightSeen Sight
	confirmed bool
	returned  int   // epoch for which Return was done by this run
	told      int   // epoch in which the pools have told everything
	seen      int64 // highest revision of the store
	suspicion string
	recovery  recovery
	asking    map[string]bool // keys of asks that somebody waits for
	full      error           // the store's, if it took the last change for too much
	described []byte
	// What the watches say, by key.
	selves, alive, hosts, pools map[string]store.KV
	// What was read of them.
	selvesRead memo[Self]
	hostsRead  memo[Host]
	poolsRead  memo[Pool]
}

// recovery is what this host knows of the recovery of an epoch.
type recovery struct {
	epoch int
	seen  time.Time // when this host had nothing to wait for but hosts that nobody knew
	// missing are the hosts that the store shows and that have not told it.
	missing []ownership.Host
}

// New returns a cluster that has not looked yet; call Run.
func New(cfg Config) *Cluster {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Describe == nil {
		cfg.Describe = func() Host { return Host{} }
	}
	if cfg.OnChange == nil {
		cfg.OnChange = func() {}
	}
	c := &Cluster{cfg: cfg, wake: make(chan struct{}, 1), live: make(chan struct{}, 1), id: cfg.Identity, seen: cfg.Identity.Seen,
		verdict: Verdict{Apart, "the store was not reached yet"},
		asking:  map[string]bool{}, selvesRead: memo[Self]{}, hostsRead: memo[Host]{}, poolsRead: memo[Pool]{},
		selves: map[string]store.KV{}, alive: map[string]store.KV{}, hosts: map[string]store.KV{}, pools: map[string]store.KV{}}
	return c
}

// Me is this host's id. It changes when an operator removed the host.
func (c *Cluster) Me() ownership.Host {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.id.ID
}

// UUID names the cluster; empty before the first contact of all.
func (c *Cluster) UUID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.id.UUID
}

// Verdict is what this host may do, and why. While the store is down it is the
// last one.
func (c *Cluster) Verdict() Verdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.verdict
}

// Epoch counts the recoveries of the store that this host has been through. It only grows,
// from 1 at the first contact; 0 before.
func (c *Cluster) Epoch() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.id.Epoch
}

// Confirmed reports whether the store knows this run for the valid one of this host: so
// the journal is not an older copy.
func (c *Cluster) Confirmed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.confirmed && c.verdict.Standing != Stopped
}

// Up reports whether the store answers.
func (c *Cluster) Up() bool { return c.cfg.Store.Up() }

// Wake makes Run look at the store soon.
func (c *Cluster) Wake() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Suspect says that the store lacks what this host owns. If the host is a member
// still at the next look, that freezes the cluster.
func (c *Cluster) Suspect(why string) {
	c.mu.Lock()
	news := c.suspicion == ""
	c.suspicion = why
	c.mu.Unlock()
	if news {
		c.Wake()
	}
}

// Run keeps the membership until ctx ends.
func (c *Cluster) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	watch := func(prefix string, into func() map[string]store.KV, look bool) {
		g.Go(func() error {
			return c.cfg.Store.Watch(ctx, prefix, func(u store.Update) { c.observe(u, into(), look) })
		})
	}
	watch(prefixSelf, func() map[string]store.KV { return c.selves }, true)
	watch(prefixAlive, func() map[string]store.KV { return c.alive }, false)
	watch(prefixHosts, func() map[string]store.KV { return c.hosts }, false)
	watch(prefixPools, func() map[string]store.KV { return c.pools }, false)
	g.Go(func() error {
		return c.cfg.Store.Watch(ctx, keyCluster, func(store.Update) { c.Wake() })
	})
	g.Go(func() error {
		return c.cfg.Store.Watch(ctx, prefixBack, func(store.Update) { c.Wake() })
	})
	g.Go(func() error { return c.answerQuestions(ctx) })
	g.Go(func() error { return c.follow(ctx) })
	g.Go(func() error { return c.keepAlive(ctx) })
	return g.Wait()
}

// observe takes a watch's news.
func (c *Cluster) observe(u store.Update, into map[string]store.KV, look bool) {
	c.mu.Lock()
	if u.Reset {
		clear(into)
	}
	for _, kv := range u.Puts {
		into[kv.Key] = kv
	}
	for _, kv := range u.Deletes {
		delete(into, kv.Key)
	}
	c.mu.Unlock()
	if look {
		c.Wake()
	}
	c.cfg.OnChange()
}

// follow looks, judges and acts, again and again.
func (c *Cluster) follow(ctx context.Context) error {
	for {
		again, err := c.step(ctx)
		pause := lookEvery
		switch {
		case err != nil && ctx.Err() == nil:
			c.cfg.Logger.Debug("look at the store", "err", err)
			pause = retryEvery
		case again:
			continue
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-c.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// step is one look. It reports whether another one has to follow at once.
func (c *Cluster) step(ctx context.Context) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	c.mu.Lock()
	id, confirmed := c.id, c.confirmed
	id.Seen = max(id.Seen, c.seen) // before the look, which must not be older
	suspicion := c.suspicion
	c.suspicion = ""
	c.mu.Unlock()
	s, err := c.sight(ctx, id)
	if err != nil {
		return false, err
	}
	c.sees(s.Rev)
	v, err := Judge(id, s, confirmed)
	if v.Standing == Member && suspicion != "" {
		v = Verdict{Freezing, suspicion}
	}
	c.setVerdict(ctx, v, s)
	if err != nil {
		return false, err
	}
	return c.act(ctx, id, s, v)
}

// sees notes a revision of the store.
func (c *Cluster) sees(rev int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = max(c.seen, rev)
}

func (c *Cluster) setVerdict(ctx context.Context, v Verdict, s Sight) {
	c.mu.Lock()
	old := c.verdict
	c.verdict, c.sightSeen = v, s
	c.mu.Unlock()
	if old != v {
		c.relive()
		level := slog.LevelInfo
		if v.Standing != Member && v.Standing != Raising && v.Standing != Founding {
			level = slog.LevelWarn
		}
		c.cfg.Logger.Log(ctx, level, "standing in the cluster", "standing", v.Standing, "why", v.Why)
	}
	c.cfg.OnChange()
}

// act does what follows from a verdict.
func (c *Cluster) act(ctx context.Context, id Identity, s Sight, v Verdict) (again bool, err error) {
	switch v.Standing {
	case Founding:
		return true, c.commit(ctx, Found(NewID()))
	case Raising:
		return true, c.raise(ctx, id, s)
	case Member:
		return false, errors.Join(c.remember(ctx, id, s), c.describe(ctx, id, s))
	case Foreign:
		return c.convert(ctx, id)
	case Frozen:
		return false, c.announce(ctx, id, s, v.Why)
	case Freezing:
		txn, err := Freeze(id, s, v.Why)
		if err != nil {
			return false, err
		}
		return true, c.commit(ctx, txn)
	case Recovering:
		return c.comeBack(ctx, id, s)
	case Waiting:
		return c.thaw(ctx, id, s)
	case Removed:
		return true, c.renew(ctx, id)
	default:
		return false, nil
	}
}

// put commits, and remembers whether the store takes any data.
func (c *Cluster) put(ctx context.Context, txn store.Txn) (store.Result, error) {
	res, err := c.cfg.Store.Commit(ctx, txn)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case errors.Is(err, store.ErrReadOnly):
		c.full = err
	case err == nil && res.OK:
		c.full = nil
	}
	return res, err
}

// Problem says why this host may not change everything, nil if it may. It includes
// what the last change met: a store that is full is only known by trying.
func (c *Cluster) Problem() error {
	if st := c.cfg.Store.Status(); !st.Up {
		return fmt.Errorf("%w: %s", store.ErrDown, st.Why)
	}
	err := c.Ready()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.full != nil {
		return c.full // it may be why this host does not stand as it should
	}
	return err
}

// commit is for transactions of which it is enough that one host succeeds: the
// next look shows what happened.
func (c *Cluster) commit(ctx context.Context, txn store.Txn) error {
	_, err := c.put(ctx, txn)
	return err
}

// thaw ends a recovery if it is time. A host that is removed meanwhile is not waited
// for.
func (c *Cluster) thaw(ctx context.Context, id Identity, s Sight) (again bool, err error) {
	if err := errors.Join(c.remember(ctx, id, s), c.describe(ctx, id, s)); err != nil {
		return false, err
	}
	c.mu.Lock()
	id = c.id
	c.mu.Unlock()
	txn, ok, err := Thaw(id, s)
	if !ok || err != nil {
		return false, err
	}
	if all, err := c.allBack(ctx, id, s); !all || err != nil {
		return false, err
	}
	if done, err := c.buryRemoved(ctx, id); !done || err != nil {
		return err == nil, err // others do it too
	}
	return true, c.commit(ctx, txn)
}

// allBack reports whether every host that the store shows has told it, those too that
// who said `weft store recover` did not know and that showed themselves after it. They
// have a moment for that. Who comes later is left out.
func (c *Cluster) allBack(ctx context.Context, id Identity, s Sight) (bool, error) {
	rec, err := decode[Record](s.Cluster)
	if err != nil {
		return false, err
	}
	c.mu.Lock()
	if c.recovery.epoch != rec.Epoch {
		c.recovery = recovery{epoch: rec.Epoch, seen: time.Now()}
	}
	wait := announceTime - time.Since(c.recovery.seen)
	c.mu.Unlock()
	if wait > 0 {
		time.AfterFunc(wait, c.Wake)
		return false, nil
	}
	hosts, err := c.present(ctx, id)
	if err != nil {
		return false, err
	}
	missing := slices.DeleteFunc(hosts, func(h ownership.Host) bool {
		return slices.Contains(s.Back, h) || slices.Contains(id.Removed, h)
	})
	c.mu.Lock()
	c.recovery.missing = missing
	c.mu.Unlock()
	if len(missing) > 0 {
		time.AfterFunc(retryEvery, c.Wake) // the end of a lease wakes nobody
		return false, nil
	}
	return true, nil
}

// keep makes an identity durable and current.
func (c *Cluster) keep(ctx context.Context, id Identity, ops ...journal.Op) error {
	if err := c.cfg.Journal.Commit(ctx, append(ops, id.Op())...); err != nil {
		return err
	}
	c.mu.Lock()
	c.id = id
	c.mu.Unlock()
	return nil
}

// raise makes this run the valid one.
func (c *Cluster) raise(ctx context.Context, id Identity, s Sight) error {
	behind := id.UUID != ""
	epoch := id.Epoch
	id, err := Adopt(id, s)
	if err != nil {
		return err
	}
	if behind && id.Epoch != epoch {
		// It told a recovering store, and ended before it kept that: revisions count anew.
		if err := c.keep(ctx, id, journal.Delete(bucketHost, keySeen)); err != nil {
			return err
		}
		c.mu.Lock()
		c.seen = id.Seen
		c.mu.Unlock()
	}
	self, err := decode[Self](s.Self)
	if err != nil {
		return err
	}
	if id.Next != "" && self.Nonce == id.Next {
		id = Raised(id) // it happened in an earlier run or try
		if err := c.keep(ctx, id); err != nil {
			return err
		}
	}
	if id.Next == "" {
		// One that is there may be on its way still: another one would be unknown here
		// when it arrives.
		id.Next = NewID()
	}
	if err := c.keep(ctx, id); err != nil {
		return err
	}
	res, err := c.put(ctx, Raise(id, c.cfg.Name, s))
	if err != nil || !res.OK {
		return err // the next look tells whether it happened
	}
	if err := c.keep(ctx, Raised(id)); err != nil {
		return err
	}
	c.mu.Lock()
	c.confirmed = true
	c.mu.Unlock()
	c.relive()
	return nil
}

// remember keeps in the journal which hosts there are.
func (c *Cluster) remember(ctx context.Context, id Identity, s Sight) error {
	c.mu.Lock()
	selves := make([]store.KV, 0, len(c.selves))
	for _, kv := range c.selves {
		selves = append(selves, kv)
	}
	c.mu.Unlock()
	news := false
	for _, kv := range selves {
		self, err := decode[Self](kv)
		if err != nil {
			self = Self{} // one that cannot be read, as of a newer version, is a host's too
		}
		if h := hostOf(kv.Key, prefixSelf); h != id.ID && h != "" {
			news = id.Meets(h, self.Removed) || news
			if self.Name != "" && id.Names[h] != self.Name {
				id.Names = maps.Clone(id.Names)
				if id.Names == nil {
					id.Names = make(map[ownership.Host]string)
				}
				id.Names[h], news = self.Name, true
			}
		}
	}
	if !news {
		return nil
	}
	id.Seen = max(id.Seen, s.Rev)
	return c.keep(ctx, id)
}

// describe tells the others about this host.
func (c *Cluster) describe(ctx context.Context, id Identity, s Sight) error {
	h := c.cfg.Describe()
	h.Version, h.Name = recordVersion, c.cfg.Name
	value := encode(h)
	c.mu.Lock()
	same := string(c.described) == string(value) && c.hosts[prefixHosts+string(id.ID)].Rev != 0
	c.mu.Unlock()
	if same {
		return nil
	}
	res, err := c.put(ctx, store.Txn{If: Fence(id.ID, s), Then: []store.Op{store.Put(prefixHosts+string(id.ID), value)}})
	if err == nil && res.OK {
		c.mu.Lock()
		c.described = value
		c.mu.Unlock()
	}
	return err
}

// comeBack begins this host's part of a recovery; [Cluster.Told] ends it.
func (c *Cluster) comeBack(ctx context.Context, id Identity, s Sight) (again bool, err error) {
	rec, err := decode[Record](s.Cluster)
	if err != nil {
		return false, err
	}
	c.mu.Lock()
	begun, told := c.returned == rec.Epoch, c.told == rec.Epoch
	c.mu.Unlock()
	switch {
	case told:
		return c.back(ctx, id, s)
	case begun:
		return false, c.describe(ctx, id, s)
	}
	res, err := c.put(ctx, Return(id, c.cfg.Name, s))
	if err != nil || !res.OK {
		return err == nil, err
	}
	// What the watch said of pools may be of before the restore.
	seen, err := c.look(ctx)
	if err != nil {
		return false, err
	}
	c.takePools(seen)
	c.mu.Lock()
	c.returned, c.described = rec.Epoch, nil
	c.mu.Unlock()
	return true, nil
}

// back ends this host's part of a recovery. Revisions count anew from here.
func (c *Cluster) back(ctx context.Context, id Identity, s Sight) (again bool, err error) {
	txn, epoch, err := Back(id, s)
	if err != nil {
		return false, err
	}
	res, err := c.put(ctx, txn)
	if err != nil || !res.OK {
		return err == nil, err
	}
	if err := c.keep(ctx, Returned(id, epoch, res.Rev), journal.Delete(bucketHost, keySeen)); err != nil {
		return false, err
	}
	c.mu.Lock()
	c.seen = res.Rev
	c.mu.Unlock()
	return true, nil
}

// Told says that every pool has told a recovering store, in an epoch, what it owns.
func (c *Cluster) Told(epoch int) {
	c.mu.Lock()
	news := c.told != epoch
	c.told = epoch
	c.mu.Unlock()
	if news {
		c.Wake()
	}
}

// convert lets a host that keeps nothing of its cluster become one of another.
func (c *Cluster) convert(ctx context.Context, old Identity) (again bool, err error) {
	if c.cfg.Keeps == nil || c.cfg.Keeps() {
		return false, nil
	}
	return true, c.become(ctx, Identity{ID: ownership.Host(NewID()), Machine: old.Machine}, "its cluster is another one, of which it kept nothing")
}

// renew gives up an id that must not be used again.
func (c *Cluster) renew(ctx context.Context, old Identity) error {
	id := Identity{ID: ownership.Host(NewID()), Machine: old.Machine, Known: old.Known, Removed: append(old.Removed, old.ID), Names: old.Names}
	return c.become(ctx, id, "the old one was removed")
}

// become takes another id.
func (c *Cluster) become(ctx context.Context, id Identity, why string) error {
	old := c.Me()
	if c.cfg.Renew != nil {
		if err := c.cfg.Renew(ctx, id.Op(), id.ID); err != nil {
			return err
		}
	} else if err := c.cfg.Journal.Commit(ctx, id.Op()); err != nil {
		return err
	}
	c.cfg.Logger.Warn("this host has a new id: "+why, "old", old, "new", id.ID)
	c.mu.Lock()
	c.id, c.confirmed, c.described, c.seen = id, false, nil, 0
	c.mu.Unlock()
	c.relive()
	return nil
}

// SeenOp keeps in the journal the highest revision that was seen; it goes along
// with other writes.
func (c *Cluster) SeenOp() journal.Op {
	c.mu.Lock()
	defer c.mu.Unlock()
	return journal.Put(bucketHost, keySeen, Identity{Seen: c.seen})
}

// ErrNotNow says that the cluster's standing forbids a change; the text says why.
var ErrNotNow = errors.New("the cluster cannot change now")

// refuse says why nothing may change, nil if it may.
func (c *Cluster) refuse(standings ...Standing) error {
	_, err := c.admit(standings...)
	return err
}

// admit returns the pass of a host that stands in the cluster in one of some ways; else
// why it may not do what is for those.
func (c *Cluster) admit(standings ...Standing) (Pass, error) {
	pass := c.Pass()
	if slices.Contains(standings, pass.Standing) {
		return pass, nil
	}
	if st := c.cfg.Store.Status(); !st.Up {
		return pass, fmt.Errorf("%w: %s", store.ErrDown, st.Why)
	}
	do := ""
	switch pass.Standing {
	case Frozen, Freezing:
		do = "; when all hosts are up, run `weft store recover`"
	case Unreadable:
		do = "; update weft on this host, or put the record right"
	case Recovering, Waiting:
		do = "; it goes on when all hosts are back (weft store status), or removed with `weft host rm`"
	}
	return pass, fmt.Errorf("%w: %s%s", ErrNotNow, strings.TrimSuffix(string(pass.Standing)+": "+pass.Why, ": "), do)
}

// Ready is nil if this host may change owners, else it says why not.
func (c *Cluster) Ready() error { return c.refuse(Member) }

// Commit commits a change of a pool's owners that was planned under a pass. to is the
// host that gets an address by it, if any: it has to be a member when that happens.
func (c *Cluster) Commit(ctx context.Context, pass Pass, p Pool, txn store.Txn, to ownership.Host) (store.Result, error) {
	if pass.Standing != Member && pass.Standing != Recovering {
		return store.Result{}, fmt.Errorf("%w: %s: %s", store.ErrDown, pass.Standing, pass.Why)
	}
	c.mu.Lock()
	key := PoolKey(p.Domain, p.Subnet)
	record := c.pools[key]
	now, err := c.poolAt(key)
	fence := append(slices.Clone(pass.fence), store.Lives(key, record.Created))
	c.mu.Unlock()
	if err != nil || now.UUID != p.UUID || !slices.Contains(now.Members, pass.Me) {
		return store.Result{}, fmt.Errorf("%w: this host is no member of pool %s (yet)", store.ErrDown, p.Subnet)
	}
	switch {
	case to != "" && slices.Contains(now.Members, to):
		fence = append(fence, store.Unchanged(key, record.Rev))
	case to != "":
		fence = append(fence, store.Unchanged(key, 0)) // it fails, and shows whether the ask is still there
	}
	// The chunk's condition stays the first one.
	res, err := c.put(ctx, store.Txn{If: append(slices.Clone(txn.If), fence...), Then: txn.Then})
	switch {
	case err == nil && res.OK:
		c.sees(res.Rev)
	case err == nil:
		c.Wake()
	}
	return res, err
}

// Watch is the store's, for records of pools and asks.
func (c *Cluster) Watch(ctx context.Context, prefix string, fn func(store.Update)) error {
	return c.cfg.Store.Watch(ctx, prefix, fn)
}

// Known returns the cached record of a pool.
func (c *Cluster) Known(domain string, subnet netip.Prefix) (Pool, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, err := c.poolAt(PoolKey(domain, subnet))
	return p, err == nil && p.UUID != ""
}

// PoolRev is the revision of a pool's record, 0 if there is none. Unlike [Cluster.Known]
// it is there for a record that cannot be read.
func (c *Cluster) PoolRev(domain string, subnet netip.Prefix) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pools[PoolKey(domain, subnet)].Rev
}

// poolAt reads the cached record of a pool. The caller holds mu and must not change the
// members.
func (c *Cluster) poolAt(key string) (Pool, error) { return c.poolsRead.read(key, c.pools[key]) }

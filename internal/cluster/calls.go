package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// ErrBusy says that others were faster.
var ErrBusy = errors.New("the cluster changes too fast: try again")

// overtaken is the longest pause after others were faster.
const overtaken = 20 * time.Millisecond

// look reads all pools. Those of a store that is older than what was seen say nothing:
// it was restored, and as long as nobody has frozen it the records of the cluster and of
// this run can be the same as before.
func (c *Cluster) look(ctx context.Context) (Pools, error) {
	var seen Pools
	c.mu.Lock()
	newest := c.seen
	if c.verdict.Standing != Member {
		newest = 0 // in a recovery revisions count anew
	}
	c.mu.Unlock()
	snap, err := c.cfg.Store.Read(ctx, prefixPools)
	if err != nil {
		return seen, err
	}
	if snap.Rev < newest {
		c.Wake()
		return seen, fmt.Errorf("%w: the store is at revision %d, %d was seen", ErrNotNow, snap.Rev, newest)
	}
	seen.KVs = snap.KVs
	seen.Index, _, err = c.cfg.Store.Get(ctx, keyIndex)
	return seen, err
}

// again repeats a change until its transaction holds, while this host stands in the
// cluster as it may for the change: one that was begun as a member must not happen in a
// recovery that came meanwhile. next returns nothing to commit when there is nothing to
// do. An outcome that is unknown is settled by the next look: every one of these changes
// is idempotent.
func (c *Cluster) again(ctx context.Context, may []Standing, next func(Pools) (store.Txn, error)) (store.Result, error) {
	for {
		pass, err := c.admit(may...) // before the look
		if err != nil {
			return store.Result{}, err
		}
		seen, err := c.look(ctx)
		if err != nil {
			return store.Result{}, err
		}
		txn, err := next(seen)
		if err != nil || len(txn.Then) == 0 {
			return store.Result{OK: true}, err
		}
		res, err := c.put(ctx, pass.under(txn))
		switch {
		case err != nil && !errors.Is(err, store.ErrUnknown):
			return res, err
		case err == nil && res.OK:
			return res, nil
		case err == nil:
			c.Wake() // the fence may be why
		}
		select {
		case <-ctx.Done():
			return res, fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
		case <-time.After(rand.N(overtaken)):
		}
	}
}

// note puts a pool into the cache ahead of the watch.
func (c *Cluster) note(key string, p Pool, res store.Result, seen Pools) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kv := seen.get(key)
	if kv.Rev == 0 {
		kv.Created = res.Rev
	}
	if res.Rev > c.pools[key].Rev {
		c.pools[key] = store.KV{Key: key, Value: encode(p), Rev: res.Rev, Created: kv.Created}
	} else if c.pools[key].Rev < kv.Rev {
		c.pools[key] = kv
	}
}

// Join makes this host a member of the pool of a subnet, which is made if there is
// none. choose, if not nil, chooses the subnet from all pools; it is asked again
// when others were faster.
func (c *Cluster) Join(ctx context.Context, domain string, subnet netip.Prefix, choose func([]Pool) (netip.Prefix, error)) (Pool, error) {
	uuid := NewID()
	var pool Pool
	var last Pools
	res, err := c.again(ctx, []Standing{Member}, func(seen Pools) (store.Txn, error) {
		last = seen
		if choose != nil {
			all, err := seen.List()
			if err != nil {
				return store.Txn{}, err
			}
			var list []Pool
			for _, p := range all {
				list = append(list, p)
			}
			if subnet, err = choose(list); err != nil {
				return store.Txn{}, err
			}
		}
		txn, p, err := Join(c.Me(), domain, subnet, uuid, seen)
		pool = p
		return txn, err
	})
	if err != nil {
		return Pool{}, err
	}
	c.note(PoolKey(domain, subnet), pool, res, last)
	return pool, nil
}

// Leave ends this host's membership.
func (c *Cluster) Leave(ctx context.Context, p Pool) error {
	_, err := c.again(ctx, []Standing{Member}, func(seen Pools) (store.Txn, error) {
		record := seen.get(PoolKey(p.Domain, p.Subnet))
		if now, err := decode[Pool](record); err != nil || now.UUID != p.UUID {
			return store.Txn{}, err
		}
		return Leave(c.Me(), record, seen.Index)
	})
	return err
}

// Rejoin tells a recovering store that this host is a member.
func (c *Cluster) Rejoin(ctx context.Context, p Pool) error {
	_, err := c.again(ctx, []Standing{Recovering}, func(seen Pools) (store.Txn, error) {
		return Rejoin(c.Me(), p, seen.get(PoolKey(p.Domain, p.Subnet)), seen.Index)
	})
	if err != nil {
		return err
	}
	seen, err := c.look(ctx)
	if err != nil {
		return err
	}
	c.takePools(seen)
	return nil
}

// takePools replaces the cache: it may be of before a restore, with higher revisions.
func (c *Cluster) takePools(seen Pools) {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.pools)
	for _, kv := range seen.KVs {
		c.pools[kv.Key] = kv
	}
}

// AsksPrefix is where others ask this host.
func (c *Cluster) AsksPrefix() string { return prefixAsks + string(c.Me()) + "/" }

// Ask asks a host for an address and waits for its answer until ctx ends. refused
// says why it does not give it. The grant itself shows in the pool. The ask is gone
// when this returns, or will be after [Cluster.SweepAsks].
func (c *Cluster) Ask(ctx context.Context, owner ownership.Host, a ownership.Ask) (refused string, err error) {
	pass, err := c.admit(Member)
	if err != nil {
		return "", err
	}
	a.Key, a.From = prefixAsks+string(owner)+"/"+NewID(), pass.Me
	c.mu.Lock()
	c.asking[a.Key] = true
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.asking, a.Key)
	}()
	res, err := c.put(ctx, pass.under(store.Txn{Then: []store.Op{store.Put(a.Key, a.Encode())}}))
	if err == nil && !res.OK {
		c.Wake()
		return "", ErrBusy
	}
	if err != nil && !errors.Is(err, store.ErrUnknown) {
		return "", err
	}
	defer func() {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTime)
		defer cancel()
		_, err := c.put(after, store.Txn{Then: []store.Op{store.Delete(a.Key)}})
		if err != nil {
			c.cfg.Logger.Debug("an ask stays until its owner answers it", "key", a.Key, "err", err)
		}
	}()
	return c.answer(ctx, a)
}

// SweepAsks deletes asks and questions of this host for which nobody waits: their
// deletion did not reach the store, or their asker is of an earlier run.
func (c *Cluster) SweepAsks(ctx context.Context) error {
	if err := c.sweepQuestions(ctx); err != nil {
		return err
	}
	return c.dropAsks(ctx, func(a ownership.Ask) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return a.From == c.id.ID && !c.asking[a.Key]
	})
}

// dropAsks deletes the asks that drop chooses.
func (c *Cluster) dropAsks(ctx context.Context, drop func(ownership.Ask) bool) error {
	all, err := c.cfg.Store.Read(ctx, prefixAsks)
	if err != nil {
		return err
	}
	for _, kv := range all.KVs {
		if a, err := ownership.DecodeAsk(kv); err == nil && drop(a) {
			txn := store.Txn{If: []store.Cond{store.Unchanged(kv.Key, kv.Rev)}, Then: []store.Op{store.Delete(kv.Key)}}
			if _, err := c.put(ctx, txn); err != nil {
				return err
			}
		}
	}
	return nil
}

// Lost reports whether the store lacks a pool, or has another life of it. A record that
// cannot be read says neither: that is an error.
func (c *Cluster) Lost(ctx context.Context, p Pool) (bool, error) {
	seen, err := c.look(ctx)
	if err != nil {
		return false, err
	}
	now, err := decode[Pool](seen.get(PoolKey(p.Domain, p.Subnet)))
	return err == nil && now.UUID != p.UUID, err
}

// Affirm makes this host a member of a pool whatever it sent before: a change of the
// membership that is still on its way cannot happen any more.
func (c *Cluster) Affirm(ctx context.Context, p Pool) (Pool, error) {
	key := PoolKey(p.Domain, p.Subnet)
	if pool, err := c.Join(ctx, p.Domain, p.Subnet, nil); err != nil || pool.UUID != p.UUID {
		return pool, err
	}
	_, err := c.again(ctx, []Standing{Member}, func(seen Pools) (store.Txn, error) {
		kv := seen.get(key)
		return store.Txn{If: []store.Cond{store.Unchanged(key, kv.Rev)}, Then: []store.Op{store.Put(key, kv.Value)}}, nil
	})
	if err != nil {
		return p, err
	}
	return c.Join(ctx, p.Domain, p.Subnet, nil)
}

// answer waits until an ask is granted, refused or given up.
func (c *Cluster) answer(ctx context.Context, a ownership.Ask) (refused string, err error) {
	watch, cancel := context.WithCancel(ctx)
	defer cancel()
	answered := false
	err = c.cfg.Store.Watch(watch, a.Key, func(u store.Update) {
		for _, kv := range u.Puts {
			if now, err := ownership.DecodeAsk(kv); err == nil && now.Refused != "" {
				refused, answered = now.Refused, true
			}
		}
		if len(u.Deletes) > 0 || u.Reset && len(u.Puts) == 0 {
			answered = true
		}
		if answered {
			cancel()
		}
	})
	if answered {
		return refused, nil
	}
	if err == nil {
		err = ctx.Err()
	}
	return "", fmt.Errorf("no answer: %w", err)
}

// Refuse refuses an ask.
func (c *Cluster) Refuse(ctx context.Context, a ownership.Ask, why string) error {
	_, err := c.put(ctx, ownership.Refuse(a, why))
	return err
}

// Recover lets the cluster go on after its store was restored or wiped: every host
// tells it what it owns. It is the operator's word that all hosts are known here. When
// it returns without an error, this host sees that the recovery has begun, or ctx or a
// look's time is over.
func (c *Cluster) Recover(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	for {
		begun, err := c.recover(limited)
		if err != nil {
			return err
		}
		c.Wake()
		if begun {
			c.awaitThaw(ctx)
			return nil
		}
		select { // others were faster: they may have shown themselves, or that there is a cluster
		case <-limited.Done():
			return ErrBusy
		case <-time.After(rand.N(overtaken)):
		}
	}
}

// recover begins a recovery, unless the cluster's record changed meanwhile.
func (c *Cluster) recover(ctx context.Context) (begun bool, err error) {
	c.mu.Lock()
	id := c.id
	c.mu.Unlock()
	s, err := c.sight(ctx, id)
	if err != nil {
		return false, err
	}
	v, err := Judge(id, s, true)
	if err != nil {
		return false, err
	}
	if v.Standing != Frozen && v.Standing != Freezing {
		return false, fmt.Errorf("%w: there is nothing to recover: this host is %s", ErrNotNow, v.Standing)
	}
	others, err := c.present(ctx, id)
	if err != nil {
		return false, err
	}
	txn, err := Recover(id, s, others, rand.N(1<<32))
	if err != nil {
		return false, err
	}
	res, err := c.put(ctx, txn)
	return res.OK, err
}

// present are the hosts but this one that the store knows: those that are connected, and
// those with a record that is no tombstone, or that cannot be read.
func (c *Cluster) present(ctx context.Context, id Identity) ([]ownership.Host, error) {
	selves, err := c.cfg.Store.Read(ctx, prefixSelf)
	if err != nil {
		return nil, err
	}
	out, err := c.others(ctx, id.ID)
	if err != nil {
		return nil, err
	}
	for _, kv := range selves.KVs {
		self, err := decode[Self](kv)
		h := hostOf(kv.Key, prefixSelf)
		switch {
		case h == "":
		case err == nil && self.Removed:
			out = slices.DeleteFunc(out, func(o ownership.Host) bool { return o == h })
		case h != id.ID:
			out = append(out, h)
		}
	}
	return out, nil
}

// awaitThaw waits until this host sees that the cluster is frozen no more.
func (c *Cluster) awaitThaw(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	tick := time.NewTicker(overtaken)
	defer tick.Stop()
	for {
		if s := c.Verdict().Standing; s != Frozen && s != Freezing {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// WaitsFor are the hosts for which a recovery waits.
func (c *Cluster) WaitsFor() []ownership.Host {
	c.mu.Lock()
	defer c.mu.Unlock()
	rec, err := decode[Record](c.sightSeen.Cluster)
	if err != nil || rec.Phase != PhaseRecovering {
		return nil
	}
	waits := rec.Waits
	if c.recovery.epoch == rec.Epoch {
		waits = slices.Concat(waits, c.recovery.missing)
		slices.Sort(waits)
		waits = slices.Compact(waits)
	}
	return slices.DeleteFunc(waits, func(h ownership.Host) bool {
		return slices.Contains(c.sightSeen.Back, h) || slices.Contains(c.id.Removed, h)
	})
}

// Change commits what no ownership of an address hangs on, behind the fence: it cannot
// happen after this host was removed, by an earlier run of it, or across a freeze or a
// recovery. Unlike changes of owners it goes on while the cluster is frozen.
func (c *Cluster) Change(ctx context.Context, txn store.Txn) (store.Result, error) {
	pass, err := c.admit(Member, Freezing, Frozen, Recovering, Waiting)
	if err != nil {
		return store.Result{}, fmt.Errorf("%w: %w", store.ErrDown, err)
	}
	res, err := c.put(ctx, pass.under(txn))
	if err == nil && !res.OK {
		c.Wake() // the fence may be why
	}
	return res, err
}

// Get is the store's.
func (c *Cluster) Get(ctx context.Context, key string) (store.KV, error) {
	kv, _, err := c.cfg.Store.Get(ctx, key)
	return kv, err
}

// List returns what the store has below a prefix.
func (c *Cluster) List(ctx context.Context, prefix string) ([]store.KV, error) {
	snap, err := c.cfg.Store.Read(ctx, prefix)
	return snap.KVs, err
}

package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/journal"
)

// waitPool is how long a new pool may wait for the store, and waitRoom how much of that for
// another one to be given up.
const (
	waitPool = 5 * time.Second
	waitRoom = 4 * time.Second
)

// ownersPrefix is where the owners of a share's addresses are.
func ownersPrefix(sh *share) string { return cluster.OwnersPrefix(sh.rec.Pool.UUID) }

// isShared reports whether a pool like this is the cluster's. A pool that is on a
// book of this host alone already stays so.
func (m *IPAM) isShared(id poolID) bool {
	if m.cfg.Cluster == nil || id.space != spaceLocal || id.domain == DomainHost {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.books[id.bookKey]
	return b == nil || b.share != nil
}

// join makes this host a member of the pool of id, whose subnet is chosen if it has
// none. The share stays until release is called.
func (m *IPAM) join(ctx context.Context, req PoolRequest, id *poolID, bits int) (sh *share, release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, waitPool)
	defer cancel()
	if id.subnet.IsValid() {
		if err := m.awaitRoom(ctx, id.bookKey); err != nil {
			return nil, nil, err
		}
	}
	m.mu.Lock()
	m.joins++
	m.mu.Unlock()
	defer func() {
		if err != nil {
			m.endJoin(sh)
		}
	}()
	var choose func([]cluster.Pool) (netip.Prefix, error)
	if !id.subnet.IsValid() {
		choose = func(all []cluster.Pool) (netip.Prefix, error) { return m.chooseShared(req, bits, all) }
	} else if sh, err = m.keepShare(ctx, id.bookKey); err != nil {
		return sh, nil, noStore(id.subnet, err)
	}
	if sh != nil && m.belongs(sh) {
		return sh, func() { m.endJoin(sh) }, nil
	}
	if err := m.awaitCluster(ctx); err != nil {
		return sh, nil, noStore(id.subnet, err)
	}
	pool, err := m.cfg.Cluster.Join(ctx, id.domain, id.subnet, choose)
	if errors.Is(err, cluster.ErrOverlap) {
		err = m.named(err)
		return sh, nil, refuse(ErrOverlap, "choose another --subnet, remove the network that has it on its host, or keep separate books with --ipam-opt domain=NAME", "%v", err)
	}
	if _, refused := errors.AsType[*Error](err); refused {
		return sh, nil, err
	}
	if err != nil {
		return sh, nil, noStore(id.subnet, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	id.subnet = pool.Subnet
	if sh == nil {
		if sh = m.shareOf(id.bookKey); sh == nil {
			sh = m.addShare(shareRecord{Store: m.cfg.Cluster.UUID(), Pool: pool, By: m.me()}, nil)
		}
		sh.joining++
	}
	m.notify(sh)
	return sh, func() { m.endJoin(sh) }, nil
}

// named puts names in the place of hosts' ids.
func (m *IPAM) named(err error) error {
	text := err.Error()
	for _, h := range m.cfg.Cluster.Hosts() {
		if h.Name != "" {
			text = strings.ReplaceAll(text, string(h.ID), h.Name)
		}
	}
	return errors.New(text)
}

// endJoin ends a join; sh is the share that it keeps, nil for none.
func (m *IPAM) endJoin(sh *share) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.joins--
	if sh != nil {
		sh.joining--
	}
	m.poke()
}

// belongs reports whether nothing has to be asked of the store: this host has another
// network on the pool, as Swarm's have after a restart of the engine.
func (m *IPAM) belongs(sh *share) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.tokensOf(sh.rec.key())) > 0 && sh.rec.By == m.me() && sh.rec.Store == m.cfg.Cluster.UUID()
}

func noStore(subnet netip.Prefix, err error) error {
	what := "a new pool"
	if subnet.IsValid() {
		what = "the new pool " + subnet.String()
	}
	return refuse(ErrStore, "look at `weft store status`, or make a network of this host alone with --ipam-opt domain=host", "%s has to be known to all hosts: %v", what, err)
}

// awaitCluster waits for a host that has just started to be a member.
func (m *IPAM) awaitCluster(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		standing := m.cfg.Cluster.Pass().Standing
		young := standing == cluster.Apart || standing == cluster.Founding || standing == cluster.Raising
		err := m.cfg.Cluster.Ready() // after that: what it was before, it is no more
		if err == nil || !young || !m.cfg.Cluster.Up() {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

func (m *IPAM) shareOf(key bookKey) *share {
	if b := m.books[key]; b != nil {
		return b.share
	}
	return nil
}

// awaitRoom waits until this host has given up the pools that a new one overlaps and whose
// networks are gone: a network is often removed and replaced by one of another size in
// one breath. It returns why there is no room, at once if the store takes nothing back.
func (m *IPAM) awaitRoom(ctx context.Context, key bookKey) error {
	ctx, cancel := context.WithTimeout(ctx, waitRoom)
	defer cancel()
	m.mu.Lock()
	defer m.mu.Unlock()
	for ctx.Err() == nil && m.cfg.Cluster.Up() {
		sh := m.givenUp(key)
		if sh == nil || sh.rec.Store != m.cfg.Cluster.UUID() {
			break
		}
		m.awaitNews(ctx, sh)
	}
	return m.overlap(key)
}

// givenUp is a share that key overlaps and that no network here is on any more, nil if
// there is none. The caller holds mu.
func (m *IPAM) givenUp(key bookKey) *share {
	for other, b := range m.books {
		if b.share != nil && other != key && other.space == key.space && other.domain == key.domain && other.subnet.Overlaps(key.subnet) && !m.wanted(b.share) {
			return b.share
		}
	}
	return nil
}

// keepShare keeps the share of a book, if there is one, from being left, and waits
// until nobody is leaving it. What it returns has to be given to endJoin.
func (m *IPAM) keepShare(ctx context.Context, key bookKey) (*share, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	sh := m.shareOf(key)
	if sh == nil {
		return nil, nil
	}
	sh.joining++
	for sh.leaving {
		m.awaitNews(ctx, sh)
		if err := ctx.Err(); err != nil {
			return sh, fmt.Errorf("an earlier network on the subnet is still being given up: %w", err)
		}
	}
	if m.shareOf(key) == sh {
		return sh, nil
	}
	sh.joining--
	return nil, nil
}

// awaitNews waits for a change of a share, or the end of ctx. The caller holds mu, which others
// have meanwhile.
func (m *IPAM) awaitNews(ctx context.Context, sh *share) {
	changed := sh.changed
	m.mu.Unlock()
	defer m.mu.Lock()
	select {
	case <-ctx.Done():
	case <-changed:
	}
}

// chooseShared chooses a subnet that no pool of the cluster, no pool of this host
// and no host's route has.
func (m *IPAM) chooseShared(req PoolRequest, bits int, all []cluster.Pool) (netip.Prefix, error) {
	taken := wide(m.cfg.Routes())
	for _, p := range all {
		taken = append(taken, p.Subnet)
	}
	for _, h := range m.cfg.Cluster.Hosts() {
		if !h.Removed {
			taken = append(taken, wide(h.Routes)...)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dynamicSubnet(m.sharedBlocks, req, bits, taken)
}

// moved takes over the pool that a share joined again, with the id that did. If it is
// another life of the pool, this host owns nothing of it.
func (m *IPAM) moved(ctx context.Context, sh *share, pool cluster.Pool) error {
	if err := m.enter(ctx, whole); err != nil {
		return err
	}
	defer m.gate.Release(whole)
	m.mu.Lock()
	if pool.UUID == sh.rec.Pool.UUID && sh.rec.By == m.me() {
		m.mu.Unlock()
		return nil
	}
	same := pool.UUID == sh.rec.Pool.UUID
	rec := shareRecord{Store: m.cfg.Cluster.UUID(), Pool: pool, By: m.me()}
	var ops []journal.Op
	for first, e := range sh.own.Entries() {
		if same {
			ops = append(ops, rec.putOwned(first, e))
		} else {
			ops = append(ops, journal.Delete(bucketOwned, ownedKey(sh.rec.Pool.UUID, first)))
		}
	}
	tokens := m.tokensOf(sh.rec.key())
	for _, p := range tokens {
		changed := p.rec
		changed.Share = &rec
		ops = append(ops, putPool(p, changed))
	}
	m.mu.Unlock()
	if err := m.cfg.Journal.Commit(ctx, ops...); err != nil {
		return fmt.Errorf("pool %s joined again: %w", pool.Subnet, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range tokens {
		p.rec.Share = &rec
	}
	sh.rec = rec
	if !same {
		m.rewatch(sh)
		m.setOwn(sh, m.me(), nil)
	}
	return nil
}

package ipam

import (
	"context"
	"net/netip"
	"slices"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/internal/ownership"
)

// share is the side of a book that the cluster's hosts have in common: which
// addresses of its subnet this host owns. Its fields are guarded by mu.
type share struct {
	rec  shareRecord
	book *book
	own  *ownership.Pool // the book's as well
	// changed is closed and made anew whenever own learned something.
	changed chan struct{}
	// joining counts the RequestPool calls that want the share to stay, out the tasks
	// and asks that are under way.
	joining, out int
	// ready is whether requests could be granted by the store when that was last planned.
	ready bool
	// leaving says that the membership is being given up, or taken.
	leaving bool
	// doubt says that giving the membership up may still happen.
	doubt bool
	// trouble is why the membership could not be changed, and when that is tried again.
	trouble trouble
	// told is the epoch of the recovery in which the store is being told, back that in
	// which it knows this host for a member, until the cluster has gone on with that.
	told, back int
	// claim says that addresses may be in use here that this host does not own.
	claim     bool
	conflicts conflicts
	// stop ends the watch of the owners' records; nil while there is none.
	stop context.CancelFunc
}

// shareRecord says in the journal of which cluster's pool a book is.
type shareRecord struct {
	// Store is the UUID of the cluster.
	Store string
	Pool  cluster.Pool
	// By is the id under which this host became a member.
	By ownership.Host
}

// ownedRecord is the journal's record of one chunk.
type ownedRecord struct {
	Share        shareRecord
	Own, Leaving ownership.Mask
}

func ownedKey(pool string, first netip.Addr) string { return pool + "/" + first.String() }

// putOwned keeps an entry; an empty one is deleted.
func (r shareRecord) putOwned(first netip.Addr, e ownership.Entry) journal.Op {
	key := ownedKey(r.Pool.UUID, first)
	if e == (ownership.Entry{}) {
		return journal.Delete(bucketOwned, key)
	}
	return journal.Put(bucketOwned, key, ownedRecord{Share: r, Own: e.Own, Leaving: e.Leaving})
}

// key is that of the share's book.
func (r shareRecord) key() bookKey {
	return bookKey{space: spaceLocal, domain: r.Pool.Domain, subnet: r.Pool.Subnet}
}

// addShare makes the book of a share. The caller holds mu.
func (m *IPAM) addShare(rec shareRecord, entries map[netip.Addr]ownership.Entry) *share {
	b := m.books[rec.key()]
	if b == nil {
		b = newBook(rec.Pool.Subnet)
		m.books[rec.key()] = b
	}
	sh := &share{rec: rec, book: b, changed: make(chan struct{}), conflicts: make(conflicts)}
	b.share = sh
	m.setOwn(sh, m.me(), entries)
	return sh
}

// setOwn gives a share a new machine that knows what is in use. Tasks of an older
// one count for nothing.
func (m *IPAM) setOwn(sh *share, me ownership.Host, entries map[netip.Addr]ownership.Entry) {
	sh.own = ownership.NewPool(ownership.Config{
		Me: me, Prefix: cluster.OwnersPrefix(sh.rec.Pool.UUID),
		Subnet: sh.rec.Pool.Subnet, Reserved: reservedOf(sh.rec.Pool.Subnet),
	}, entries)
	sh.book.own = sh.own
	sh.claim = true
	for a, h := range sh.book.held {
		sh.book.use(a, h, true)
	}
	for a := range sh.book.foreigners {
		sh.own.Use(a, true)
	}
}

// me is this host's id; without a cluster nobody asks for it.
func (m *IPAM) me() ownership.Host {
	if m.cfg.Cluster == nil {
		return ""
	}
	return m.cfg.Cluster.Me()
}

// loadShares makes the shares that the journal knows, before their pools and
// addresses are loaded. Without a cluster they stay as they are: own addresses are
// handed out, and nothing else changes.
func (m *IPAM) loadShares(pools map[string]poolRecord) error {
	owned, err := journal.Load[ownedRecord](m.cfg.Journal, bucketOwned)
	if err != nil {
		return err
	}
	records := make(map[string]shareRecord)
	entries := make(map[string]map[netip.Addr]ownership.Entry)
	for key, rec := range owned {
		uuid := rec.Share.Pool.UUID
		first, err := netip.ParseAddr(key[min(len(uuid)+1, len(key)):])
		if err != nil {
			return damaged(bucketOwned, key, err)
		}
		if entries[uuid] == nil {
			entries[uuid] = make(map[netip.Addr]ownership.Entry)
		}
		entries[uuid][first] = ownership.Entry{Own: rec.Own, Leaving: rec.Leaving}
		records[uuid] = rec.Share
	}
	for _, rec := range pools {
		if rec.Share != nil {
			records[rec.Share.Pool.UUID] = *rec.Share
		}
	}
	for uuid, rec := range records {
		m.addShare(rec, entries[uuid])
	}
	return nil
}

// notify lets everybody look who waits for a share. The caller holds mu.
func (m *IPAM) notify(sh *share) {
	close(sh.changed)
	sh.changed = make(chan struct{})
	m.poke()
}

// poke lets Run look for work.
func (m *IPAM) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// wanted reports whether a pool of this host is on the share's book.
func (m *IPAM) wanted(sh *share) bool {
	if sh.joining > 0 {
		return true
	}
	for _, p := range m.pools {
		if p.book == sh.book {
			return true
		}
	}
	return false
}

// Keeps reports whether a network of this host is on a pool of the cluster, or about to
// be.
func (m *IPAM) Keeps() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.joins > 0 || slices.ContainsFunc(m.shares(), m.wanted)
}

// shares returns all shares by subnet. The caller holds mu.
func (m *IPAM) shares() []*share {
	var out []*share
	for _, b := range m.books {
		if b.share != nil {
			out = append(out, b.share)
		}
	}
	slices.SortFunc(out, func(x, y *share) int { return x.rec.Pool.Subnet.Addr().Compare(y.rec.Pool.Subnet.Addr()) })
	return out
}

// inside reports whether the store knows this host for a member of the pool.
func (m *IPAM) inside(sh *share) bool {
	p, ok := m.cfg.Cluster.Known(sh.rec.Pool.Domain, sh.rec.Pool.Subnet)
	return ok && p.UUID == sh.rec.Pool.UUID && slices.Contains(p.Members, m.me())
}

// members is how many hosts are in the pool.
func (m *IPAM) members(sh *share) int {
	if p, ok := m.cfg.Cluster.Known(sh.rec.Pool.Domain, sh.rec.Pool.Subnet); ok {
		return max(len(p.Members), 1)
	}
	return max(len(sh.rec.Pool.Members), 1)
}

// prefetch wishes for more addresses of rng before there are none; more counts as free what
// is not. The caller holds mu.
func (m *IPAM) prefetch(sh *share, rng netip.Prefix, more int) {
	if m.cfg.Cluster == nil || sh.own.Fetching() {
		return
	}
	free := sh.own.Free(rng) + more
	if free >= ownership.Size/2 {
		return // half of the largest batch
	}
	hosts := m.members(sh)
	batch := sh.own.Batch(rng, hosts)
	if free < max(1, batch/2) && sh.own.Fetch(rng, batch, hosts) > 0 {
		m.poke()
	}
}

// trim gives away what is free beyond two batches. What networks choose from stays
// longest. The caller holds mu.
func (m *IPAM) trim(sh *share) {
	if m.cfg.Cluster.Ready() != nil || !m.cfg.Cluster.Up() || !m.inside(sh) {
		return // it could neither be given nor used
	}
	hosts := m.members(sh)
	if hosts == 1 {
		return
	}
	subnet := sh.rec.Pool.Subnet
	var ranges []netip.Prefix
	for _, p := range m.tokensOf(sh.rec.key()) {
		ranges = append(ranges, p.id.dynamic())
	}
	sh.own.Trim(subnet, 2*sh.own.Batch(subnet, hosts), func(a netip.Addr) bool {
		chosen := slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Contains(a) })
		return !chosen || !sh.book.touched.has(a) && len(ranges) > 0 && ranges[0] == subnet
	})
}

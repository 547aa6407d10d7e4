package ipam

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weft-net/weft/internal/journal"
)

// PoolRequest asks for a pool.
type PoolRequest struct {
	// Space is [LocalSpace] or [GlobalSpace].
	Space string
	// Subnet is the wanted subnet and need not be masked. The zero prefix asks for
	// any, 0.0.0.0/N and ::/N for any with N bits.
	Subnet netip.Prefix
	// Range restricts the dynamic choice to a part of Subnet; the zero prefix
	// does not.
	Range netip.Prefix
	// IPv6 asks for an IPv6 pool; Subnet says it as well.
	IPv6 bool
	// Options are the --ipam-opt settings: domain, and net, which stands for the subnet of
	// a network of the cluster.
	Options map[string]string
}

// A Pool is the answer to a [PoolRequest].
type Pool struct {
	// ID names the pool in all later calls.
	ID string
	// Subnet is masked.
	Subnet netip.Prefix
}

// RequestPool makes a pool with a new ID. In the local space a subnet that
// overlaps another one of its domain is [ErrOverlap]; in the global space an
// equal one is a repetition, which succeeds. A dynamic pool overlaps no other
// pool in any domain or space and none of the host's routes; when there is none
// left that is [ErrNoPool].
//
// An equal subnet is granted in the local space too if its pool belongs to a
// Swarm network (see [IPAM.Bind]), because after its restart an engine asks for
// those again without having released them, or to networks for which
// [Config].OnLine says so; they share its addresses, none of which two have.
func (m *IPAM) RequestPool(ctx context.Context, req PoolRequest) (Pool, error) {
	req, err := m.withSubnet(ctx, req)
	if err != nil {
		return Pool{}, err
	}
	id, bits, err := m.parseRequest(req)
	if err != nil {
		return Pool{}, err
	}
	if err := m.sees(); err != nil {
		return Pool{}, err
	}
	var shared *share
	if m.isShared(id) {
		sh, release, err := m.join(ctx, req, &id, bits)
		if err != nil {
			return Pool{}, err
		}
		defer release()
		shared = sh
	}
	var taken []netip.Prefix
	dynamic := !id.subnet.IsValid()
	if dynamic {
		taken = wide(m.cfg.Routes())
	}
	if err := m.enter(ctx, whole); err != nil {
		return Pool{}, fmt.Errorf("request pool: %w", err)
	}
	defer m.gate.Release(whole)
	m.mu.Lock()
	switch {
	case dynamic:
		id.subnet, err = m.dynamicSubnet(m.blocks, req, bits, taken)
	case shared != m.shareOf(id.bookKey):
		// The store was set or unset since the subnet came into use here.
		err = refuse(ErrStore, "try again, or look at `weft store status`", "%s is in use here with another WEFT_STORE", id.subnet)
	default:
		err = m.overlap(id.bookKey)
	}
	if err != nil {
		m.mu.Unlock()
		return Pool{}, err
	}
	w, undo := m.newPool(&id, shared)
	m.mu.Unlock()
	if err := m.commit(ctx, w, undo); err != nil {
		return Pool{}, fmt.Errorf("request pool %s: %w", id.subnet, err)
	}
	return Pool{ID: id.String(), Subnet: id.subnet}, nil
}

// newPool completes id with a token and returns the write that makes the pool,
// and the one that unmakes it.
func (m *IPAM) newPool(id *poolID, shared *share) (w, undo write) {
	id.token = m.next
	m.next++
	p := &pool{id: *id, rec: poolRecord{Since: m.now()}}
	if shared != nil {
		rec := shared.rec
		p.rec.Share = &rec
	}
	w.ops = append(w.ops, putPool(p, p.rec), journal.Put(bucketMeta, keyNextToken, m.next))
	undo = write{ops: []journal.Op{deletePool(p)}, done: func() {}}
	ops, unadopt, adopt := m.adopted(p)
	w.ops = append(w.ops, ops...)
	undo.ops = append(undo.ops, unadopt...)
	var superseded []*pool
	if id.space == spaceGlobal {
		superseded = m.tokensOf(id.bookKey)
	}
	for _, old := range superseded {
		undo.ops = append(undo.ops, putPool(old, old.rec))
		rec := old.rec
		rec.Superseded = true
		w.ops = append(w.ops, putPool(old, rec))
	}
	w.done = func() {
		for _, old := range superseded {
			old.rec.Superseded = true
		}
		m.addPool(p)
		adopt()
	}
	return w, undo
}

// wide are routes but default ones.
func wide(routes []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(routes), func(p netip.Prefix) bool { return p.Bits() < 1 })
}

// endBook takes away a book without pools; one that hosts share is emptied first,
// in the background.
func (m *IPAM) endBook(key bookKey) {
	b := m.books[key]
	if b == nil || b.share == nil {
		delete(m.books, key)
		return
	}
	for _, f := range b.freed {
		b.touched.remove(f.addr)
	}
	b.freed = nil
	m.pokeProbes() // what machines have is given away too
	m.notify(b.share)
}

// parseRequest checks what does not depend on other pools. The ID has no subnet
// if any will do; bits is its wanted length, 0 for the default.
func (m *IPAM) parseRequest(req PoolRequest) (id poolID, bits int, err error) {
	switch req.Space {
	case LocalSpace:
		id.space = spaceLocal
	case GlobalSpace:
		id.space = spaceGlobal
	default:
		return id, 0, refuse(ErrSpace, "use "+LocalSpace+" or "+GlobalSpace, "%.100q", req.Space)
	}
	if id.domain, err = parseOptions(req.Options, m.cfg.Logger); err != nil {
		return id, 0, err
	}
	subnet, rng := req.Subnet, req.Range
	if subnet.IsValid() && subnet.Addr().IsUnspecified() && subnet.Bits() > 0 {
		// Engine 29 passes 0.0.0.0/N on: a size without a place.
		bits, subnet = subnet.Bits(), netip.Prefix{}
		if most := req.Subnet.Addr().BitLen() - 2; bits > most {
			return id, 0, refuse(ErrSubnet, fmt.Sprintf("use a size up to /%d", most), "%s leaves no room for a gateway and a container", req.Subnet)
		}
	}
	if !subnet.IsValid() {
		if rng.IsValid() {
			return id, 0, refuse(ErrSubnet, "give a --subnet as well, or no --ip-range", "--ip-range %s has no subnet to be a part of", rng)
		}
		return id, bits, nil
	}
	id.subnet = subnet.Masked()
	if err := checkSubnet(id.subnet); err != nil {
		return id, 0, err
	}
	if rng.IsValid() {
		id.rng = rng.Masked()
		if !id.subnet.Contains(id.rng.Addr()) || id.rng.Bits() < id.subnet.Bits() {
			return id, 0, refuse(ErrSubnet, "choose an --ip-range inside the subnet", "--ip-range %s is not inside %s", rng, id.subnet)
		}
		if size, _ := newBook(id.subnet).count(id.rng); size == 0 {
			return id, 0, refuse(ErrSubnet, "choose a larger --ip-range", "--ip-range %s of %s has no address that a container could have", rng, id.subnet)
		}
	}
	return id, 0, nil
}

// dynamicSubnet chooses a pool out of blocks that overlaps no pool and no route.
func (m *IPAM) dynamicSubnet(blocks []Block, req PoolRequest, bits int, taken []netip.Prefix) (netip.Prefix, error) {
	for key := range m.books {
		taken = append(taken, key.subnet)
	}
	ipv6 := req.IPv6 || req.Subnet.Addr().Is6()
	if p, ok := choose(blocks, ipv6, bits, taken); ok {
		return p, nil
	}
	family, size := "IPv4", ""
	if ipv6 {
		family = "IPv6"
	}
	if bits != 0 {
		size = fmt.Sprintf(" of /%d", bits)
	}
	return netip.Prefix{}, refuse(ErrNoPool, "remove networks that nobody uses, give a --subnet, or set WEFT_POOLS to more addresses",
		"%v has no free %s subnet%s: %d pools and the host's routes are in the way", ofFamily(blocks, ipv6), family, size, len(m.books))
}

func ofFamily(blocks []Block, ipv6 bool) []Block {
	return slices.DeleteFunc(slices.Clone(blocks), func(b Block) bool { return b.Base.Addr().Is6() != ipv6 })
}

// overlap refuses a subnet that collides with another one of its space and
// domain. An equal subnet of networks that are all on lines of their own passes:
// RequestPool knows no mode, so whether the new network may have it too is
// decided when that is created.
func (m *IPAM) overlap(key bookKey) error {
	if other := m.givenUp(key); other != nil {
		return refuse(ErrOverlap, "wait a moment, or look at `weft store status`: this host still gives up its addresses of that pool",
			"%s overlaps %s (domain %s, without a network here)", key.subnet, other.rec.Pool.Subnet, other.rec.Pool.Domain)
	}
	for _, p := range m.sorted() {
		if p.id.space != key.space || p.id.domain != key.domain || !p.id.subnet.Overlaps(key.subnet) {
			continue
		}
		if p.id.bookKey == key && (key.space == spaceGlobal || m.ofSwarm(key) || m.onLine(p)) {
			continue
		}
		hint := "choose another --subnet, remove the network that has it, or keep separate books with --ipam-opt domain=NAME; " +
			"a pool that a crash left behind is found unused and freed some minutes later"
		if p.id.bookKey == key && p.rec.Network == "" {
			hint = "try again in a moment: a network is being created with it here, perhaps one that another host has; or " + hint
		}
		return refuse(ErrOverlap, hint,
			"%s overlaps %s (domain %s, pool %s, since %s)", key.subnet, p.id.subnet, key.domain, p.id, p.rec.Since.Format("2006-01-02 15:04:05Z"))
	}
	return nil
}

// ofSwarm reports whether a Swarm network is on the book.
func (m *IPAM) ofSwarm(key bookKey) bool {
	return slices.ContainsFunc(m.tokensOf(key), (*pool).ofSwarm)
}

// onLine reports whether a pool is that of a network on a line of its own.
func (m *IPAM) onLine(p *pool) bool { return p.rec.Network != "" && m.cfg.OnLine(p.rec.Network) }

// isLocalNetwork tells the engine's own network ids (64 hexadecimal digits) from
// Swarm's (25 characters).
func isLocalNetwork(id string) bool {
	b, err := hex.DecodeString(id)
	return err == nil && len(b) == 32
}

// Bind says that a network was created on the newest pool of subnet in the local
// space. It is optional, and idempotent. From then on explicit addresses are
// those of containers, not aux addresses, and an older pool of the same network
// is superseded: the engine has forgotten it. A subnet that is no pool of this
// IPAM is [ErrUnknownPool].
func (m *IPAM) Bind(ctx context.Context, network string, subnet netip.Prefix) error {
	if err := m.enter(ctx, whole); err != nil {
		return fmt.Errorf("bind pool: %w", err)
	}
	defer m.gate.Release(whole)
	m.mu.Lock()
	newest := m.newestPool(network, subnet)
	if newest == nil {
		m.mu.Unlock()
		return refuse(ErrUnknownPool, "create the network with weft as its --ipam-driver", "no unbound pool has the subnet %s", subnet)
	}
	change := make(map[*pool]poolRecord)
	for _, p := range m.tokensOf(newest.id.bookKey) {
		if rec := p.rec; p != newest && rec.Network == network && !rec.Superseded {
			rec.Superseded = true
			change[p] = rec
		}
	}
	if rec := newest.rec; rec.Network != network {
		rec.Network = network
		change[newest] = rec
	}
	w := write{done: func() {
		for p, rec := range change {
			p.rec = rec
		}
	}}
	for p, rec := range change {
		w.ops = append(w.ops, putPool(p, rec))
	}
	if sh := newest.book.share; sh != nil && (!m.cfg.Leader || isLocalNetwork(network)) {
		m.prefetch(sh, newest.id.dynamic(), 0) // the first container shall not wait
	}
	newest.asked = m.now()
	m.mu.Unlock()
	defer m.pokeProbes() // nor for a probe
	if len(change) == 0 {
		return nil
	}
	if err := m.commit(ctx, w, w); err != nil {
		return fmt.Errorf("bind pool %s: %w", newest.id, err)
	}
	return nil
}

// newestPool is the one on which a network was created; nil if there is none.
func (m *IPAM) newestPool(network string, subnet netip.Prefix) *pool {
	var newest *pool
	for _, p := range m.pools {
		fits := p.id.space == spaceLocal && p.id.subnet == subnet.Masked() && (p.rec.Network == "" || p.rec.Network == network)
		if fits && (newest == nil || newest.id.token < p.id.token) {
			newest = p
		}
	}
	return newest
}

// ReleasePool ends a pool and every address that only it holds. An ID that is
// unknown or malformed is success.
func (m *IPAM) ReleasePool(ctx context.Context, id string) error {
	if err := m.enter(ctx, whole); err != nil {
		return fmt.Errorf("release pool: %w", err)
	}
	defer m.gate.Release(whole)
	m.mu.Lock()
	p, err := m.lookup(id)
	if err != nil {
		m.mu.Unlock()
		return nil // an unknown pool is released already
	}
	w := m.dropPools([]*pool{p})
	m.mu.Unlock()
	if err := m.commit(ctx, w, w); err != nil {
		return fmt.Errorf("release pool %s: %w", id, err)
	}
	return nil
}

// ReleaseNetwork is ReleasePool for all pools of a network that its engine forgot; one
// without any is success.
func (m *IPAM) ReleaseNetwork(ctx context.Context, network string) error {
	m.mu.Lock()
	var ids []string
	for _, p := range m.pools {
		if p.rec.Network == network && p.id.space == spaceLocal {
			ids = append(ids, p.id.String())
		}
	}
	m.mu.Unlock()
	slices.Sort(ids)
	for _, id := range ids {
		if err := m.ReleasePool(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// Reset ends every pool with all its addresses, whoever uses them.
func (m *IPAM) Reset(ctx context.Context) error {
	if err := m.enter(ctx, whole); err != nil {
		return fmt.Errorf("reset pools: %w", err)
	}
	defer m.gate.Release(whole)
	m.mu.Lock()
	w := m.dropPools(m.sorted())
	m.mu.Unlock()
	if err := m.commit(ctx, w, w); err != nil {
		return fmt.Errorf("reset pools: %w", err)
	}
	return nil
}

// dropPools returns the write that ends pools. The caller holds the whole gate
// and mu.
func (m *IPAM) dropPools(drop []*pool) write {
	var w write
	gone := make(map[token]bool)
	books := make(map[bookKey]*book)
	for _, p := range drop {
		w.ops = append(w.ops, deletePool(p))
		gone[p.id.token] = true
		books[p.id.bookKey] = p.book
	}
	var dones []func()
	for key, b := range books {
		ends := !slices.ContainsFunc(m.tokensOf(key), func(p *pool) bool { return !gone[p.id.token] })
		for a, h := range b.held {
			left := slices.DeleteFunc(slices.Clone(h.tokens), func(t token) bool { return gone[t] })
			switch {
			case len(left) == 0:
				w.ops = append(w.ops, deleteAddress(key, a))
				dones = append(dones, func() { b.forget(a) })
			case len(left) < len(h.tokens):
				changed := *h
				changed.tokens = left
				w.ops = append(w.ops, putHeld(key, a, &changed))
				dones = append(dones, func() { *h = changed })
			}
		}
		if ends {
			for _, f := range b.freed {
				w.ops = append(w.ops, deleteAddress(key, f.addr))
			}
			dones = append(dones, func() { m.endBook(key) })
		}
	}
	w.done = func() {
		for t := range gone {
			delete(m.pools, t)
		}
		for _, done := range dones {
			done()
		}
	}
	return w
}

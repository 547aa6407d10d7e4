package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/internal/ownership"
)

// AddressRequest asks for one address of a pool.
type AddressRequest struct {
	// PoolID is from [Pool].
	PoolID string
	// Address is the wanted address; the zero address asks for any.
	Address netip.Addr
	// Gateway says that it becomes the network's gateway.
	Gateway bool
	// Bare says that the engine sent no options. Before a pool's first endpoint,
	// that marks an explicit address as an aux address.
	Bare bool
	// Name is the container's name, as far as known.
	Name string
}

// RequestAddress hands out an address, with the prefix length of its pool. An
// explicit address may lie anywhere in the subnet. In the global space an
// explicit address that is in use is handed out again, which makes its newest
// request the holder; in the local space that is [ErrInUse]. A dynamic address
// comes from the pool's range, a dynamic gateway is the lowest free address of
// the subnet; none left is [ErrExhausted].
func (m *IPAM) RequestAddress(ctx context.Context, req AddressRequest) (netip.Prefix, error) {
	if network := m.networkOf(req.PoolID); network != "" && !req.Gateway {
		m.cfg.Follow(ctx, network)
	}
	return m.request(ctx, req)
}

// networkOf is the network of a pool, "" if there is none.
func (m *IPAM) networkOf(id string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, err := m.lookup(id)
	if err != nil {
		return ""
	}
	return p.rec.Network
}

// request is RequestAddress where the network is.
func (m *IPAM) request(ctx context.Context, req AddressRequest) (netip.Prefix, error) {
	var got netip.Prefix
	proven := m.newProof()
	sought := seek{m: m, asked: make(map[ownership.Host]string), latest: proven.start.Add(waitAll)}
	err := m.settle(ctx, func() (step, error) {
		s, addr, err := m.grant(req, proven)
		if n, ok := errors.AsType[*need](err); ok {
			s, err = sought.next(ctx, m.pools[n.token], n)
		}
		if u, ok := errors.AsType[*unproven](err); ok {
			sought.until = time.Time{} // what it got may all be machines': then it may take as long again
			return proven.wait(u)
		}
		if more, ok := proven.again(req, err); ok {
			return more, nil
		}
		got = addr
		return s, err
	})
	proven.end()
	sought.end()
	if err != nil {
		return netip.Prefix{}, under("request address", err)
	}
	return got, nil
}

// grant chooses an address and holds it until the step is done. The caller holds
// mu.
func (m *IPAM) grant(req AddressRequest, proven *proof) (step, netip.Prefix, error) {
	p, err := m.lookup(req.PoolID)
	if err != nil {
		return step{}, netip.Prefix{}, err
	}
	h := &holding{kind: p.kindOf(req), name: req.Name, tokens: []token{p.id.token}, since: m.now(), busy: make(chan struct{})}
	if err := m.mayGrant(p); err != nil {
		return step{}, netip.Prefix{}, err
	}
	addr, err := p.choose(req, h.kind, m.fromLeader(p))
	if err == nil && h.kind == KindEndpoint {
		addr, err = proven.prove(p, req, addr)
	}
	if err != nil {
		return step{}, netip.Prefix{}, err
	}
	s := step{busy: h.busy, w: write{done: func() { h.busy = nil }}}
	b, key := p.book, p.id.bookKey
	if old := b.held[addr]; old != nil {
		if old.busy != nil {
			return step{busy: old.busy}, netip.Prefix{}, nil
		}
		var ok bool
		if h.tokens, ok = m.takeOver(p, old, h.kind); !ok {
			return step{}, netip.Prefix{}, inUse(p, addr, old)
		}
		b.held[addr] = h
		s.otherwise = write{ops: []journal.Op{putHeld(key, addr, old)}, done: func() { b.held[addr] = old }}
	} else if was, ok := b.hold(addr, h); ok {
		s.otherwise = write{ops: []journal.Op{putFreed(key, was)}, done: func() { b.remember(was) }}
	} else {
		s.otherwise = write{ops: []journal.Op{deleteAddress(key, addr)}, done: func() { b.forget(addr) }}
	}
	s.w.ops = append(s.w.ops, putHeld(key, addr, h))
	if sh := b.share; sh != nil && h.kind == KindEndpoint && !m.fromLeader(p) {
		m.prefetch(sh, p.id.dynamic(), 0)
	}
	if h.kind == KindEndpoint && !p.rec.Started {
		p.rec.Started = true
		s.w.ops = append(s.w.ops, putPool(p, p.rec))
	}
	return s, netip.PrefixFrom(addr, p.id.subnet.Bits()), nil
}

// kindOf tells what an address is for. Engines up to 28.5 ask for --ip as they do
// for an aux address, but only when the network exists.
func (p *pool) kindOf(req AddressRequest) Kind {
	switch {
	case req.Gateway:
		return KindGateway
	case req.Bare && req.Address.IsValid() && !p.rec.Started && p.rec.Network == "":
		return KindAux
	default:
		return KindEndpoint
	}
}

// choose returns the address that req asks for; it may be in use only if it was
// asked for by itself. What this host does not own is a [need].
func (p *pool) choose(req AddressRequest, kind Kind, leader bool) (netip.Addr, error) {
	if req.Address.IsValid() {
		a := req.Address.Unmap()
		if err := p.book.check(a); err != nil {
			return a, err
		}
		return a, p.own(a, kind, leader)
	}
	if kind == KindGateway {
		a, first, ok := p.gateway()
		if !ok {
			return a, exhausted(p, p.id.subnet)
		}
		err := p.own(a, kind, false)
		if n, ok := errors.AsType[*need](err); ok {
			n.first = first
		}
		return a, err
	}
	rng := p.id.dynamic()
	a, ok := p.book.pick(rng, req.Name)
	switch {
	case ok:
		return a, nil
	case p.book.share != nil:
		return a, &need{token: p.id.token, kind: KindEndpoint, rng: rng}
	}
	return a, exhausted(p, rng)
}

// own says whether this host may hand out an address that is asked for by itself.
// One that is in use here is for the caller to judge, and Swarm's leader asks nobody.
func (p *pool) own(a netip.Addr, kind Kind, leader bool) error {
	b := p.book
	switch {
	case b.share == nil || b.held[a] != nil:
		return nil
	case kind == KindEndpoint && leader:
		return nil
	case kind == KindEndpoint && b.foreigners[a] && b.own.Owns(a):
		return nil // a probe says whether it still is
	case kind == KindEndpoint && b.own.Avail(a), kind != KindEndpoint && b.own.Shares(a):
		return nil
	}
	return &need{token: p.id.token, kind: kind, addr: a}
}

// fromLeader reports whether the addresses of a pool come from Swarm's leader.
func (m *IPAM) fromLeader(p *pool) bool { return m.cfg.Leader && p.ofSwarm() }

// ofSwarm reports whether the pool is of a Swarm network.
func (p *pool) ofSwarm() bool { return p.rec.Network != "" && !isLocalNetwork(p.rec.Network) }

// gateway chooses the gateway of a network that names none: the one that it had,
// the one that the cluster has, or as the first one the lowest free address.
func (p *pool) gateway() (a netip.Addr, first, ok bool) {
	if a, ok := p.oldGateway(); ok {
		return a, false, true
	}
	own := p.book.own
	if own == nil {
		a, ok := p.book.lowest()
		return a, true, ok
	}
	if a, ok := own.SharedKind(string(KindGateway)); ok {
		return a, false, true
	}
	for a := p.id.subnet.Addr(); p.id.subnet.Contains(a); a = a.Next() {
		owner, shared := own.Owner(a)
		if p.book.check(a) == nil && p.book.held[a] == nil && !shared && (owner == "" || own.Avail(a)) {
			return a, true, true
		}
	}
	return netip.Addr{}, false, false
}

// mayGrant says why this host may hand out nothing of a pool; nil if it may.
func (m *IPAM) mayGrant(p *pool) error {
	if p.book.share == nil || m.cfg.Cluster == nil {
		return nil
	}
	if v := m.cfg.Cluster.Verdict(); !v.Standing.Allocates() {
		return refuse(ErrHost, "look at `weft store status`", "%s", v.Why)
	}
	return nil
}

// oldGateway returns the gateway of the pool's network before a restart of the
// engine: the network keeps it.
func (p *pool) oldGateway() (netip.Addr, bool) {
	for a, h := range p.book.held {
		if p.id.space == spaceLocal && h.kind == KindGateway && !h.heldBy(p.id.token) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// takeOver says who holds an address that is in use once p asks for it, and
// whether p may: in the global space always; in the local space if the engine has
// forgotten all its holders, or if both are the gateway (or the same aux address)
// of one network before and after a restart of the engine.
func (m *IPAM) takeOver(p *pool, old *holding, kind Kind) ([]token, bool) {
	mine := []token{p.id.token}
	switch {
	case p.id.space == spaceGlobal:
		return mine, true
	case old.heldBy(p.id.token):
		return nil, false
	case !slices.ContainsFunc(old.tokens, func(t token) bool { return m.pools[t] != nil && !m.pools[t].rec.Superseded }):
		return mine, true
	case kind != KindEndpoint && kind == old.kind:
		return append(slices.Clone(old.tokens), p.id.token), true
	default:
		return nil, false
	}
}

func inUse(p *pool, addr netip.Addr, old *holding) error {
	who := "an address of kind " + string(old.kind)
	if old.name != "" {
		who += " of " + old.name
	}
	return refuse(ErrInUse, "choose another address, or remove what has it (weft ipam shows all)",
		"%s of %s is %s since %s", addr, p.id.subnet, who, old.since.Format("2006-01-02 15:04:05Z"))
}

func exhausted(p *pool, rng netip.Prefix) error {
	size, used := p.book.count(rng)
	kinds := make(map[Kind]int)
	for a, h := range p.book.held {
		if rng.Contains(a) {
			kinds[h.kind]++
		}
	}
	part := ""
	if rng != p.id.subnet {
		part = " (the --ip-range of " + p.id.subnet.String() + ")"
	}
	others := ""
	if n := p.book.others(rng); n > 0 {
		others = fmt.Sprintf(", and machines that are not weft's have %d", n)
	}
	return refuse(ErrExhausted, "remove containers that are not needed, or create the network with a larger --subnet or --ip-range (weft ipam shows who has what)",
		"pool %s%s has %d addresses and %d are in use (%d gateway, %d aux, %d containers)%s",
		rng, part, size, used, kinds[KindGateway], kinds[KindAux], kinds[KindEndpoint], others)
}

// ReleaseAddress frees an address that the pool holds. Whatever the pool does not
// hold, and unknown or malformed pools, are success. A release whose write fails
// is repeated by the next call.
func (m *IPAM) ReleaseAddress(ctx context.Context, id string, addr netip.Addr) error {
	err := m.settle(ctx, func() (step, error) { return m.free(id, addr.Unmap()), nil })
	return under("release address", err)
}

// free releases an address, which is busy until the step is done. The caller
// holds mu.
func (m *IPAM) free(id string, addr netip.Addr) step {
	p, err := m.lookup(id)
	if err != nil {
		return step{}
	}
	b, key := p.book, p.id.bookKey
	h := b.held[addr]
	switch {
	case h == nil || !h.heldBy(p.id.token):
		return step{}
	case h.busy != nil:
		return step{busy: h.busy}
	}
	h.busy = make(chan struct{})
	var w write
	if len(h.tokens) > 1 {
		left := *h
		left.busy = nil
		left.tokens = slices.DeleteFunc(slices.Clone(h.tokens), func(t token) bool { return t == p.id.token })
		w.ops = append(w.ops, putHeld(key, addr, &left))
		w.done = func() { *h = left }
		return step{busy: h.busy, w: w, otherwise: w}
	}
	f := b.nextFreed(addr, h.name)
	w.ops = append(w.ops, putFreed(key, f))
	forget := b.overflow()
	for _, old := range forget {
		b.hold(old.addr, &holding{kind: kindLimbo, busy: h.busy})
		w.ops = append(w.ops, deleteAddress(key, old.addr))
	}
	l := m.lineOf(p)
	w.done = func() {
		b.remember(f)
		l.gone(f.addr)
		for _, old := range forget {
			b.forget(old.addr)
		}
	}
	return step{busy: h.busy, w: w, otherwise: w}
}

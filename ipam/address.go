package ipam

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weft-net/weft/internal/journal"
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
	if err := m.enter(ctx, 1); err != nil {
		return netip.Prefix{}, fmt.Errorf("request address: %w", err)
	}
	defer m.gate.Release(1)
	for {
		m.mu.Lock()
		g, wait, err := m.grant(req)
		m.mu.Unlock()
		switch {
		case err != nil:
			return netip.Prefix{}, err
		case wait != nil:
			select {
			case <-wait:
			case <-ctx.Done():
				return netip.Prefix{}, fmt.Errorf("request address: %w", ctx.Err())
			}
		default:
			err := m.commit(ctx, g.w, g.undo)
			close(g.busy)
			if err != nil {
				return netip.Prefix{}, fmt.Errorf("request address %s: %w", g.addr.Addr(), err)
			}
			return g.addr, nil
		}
	}
}

// grant is an address that is promised as soon as w is durable.
type grant struct {
	addr    netip.Prefix
	busy    chan struct{}
	w, undo write
}

// grant chooses an address and holds it. When wait is not nil the address is
// being changed: ask again when it is closed. The caller holds mu.
func (m *IPAM) grant(req AddressRequest) (_ grant, wait <-chan struct{}, err error) {
	p, err := m.lookup(req.PoolID)
	if err != nil {
		return grant{}, nil, err
	}
	h := &holding{kind: p.kindOf(req), name: req.Name, tokens: []token{p.id.token}, since: m.now(), busy: make(chan struct{})}
	addr, err := p.choose(req, h.kind)
	if err != nil {
		return grant{}, nil, err
	}
	g := grant{addr: netip.PrefixFrom(addr, p.id.subnet.Bits()), busy: h.busy}
	g.w.done = func() { h.busy = nil }
	if old := p.book.held[addr]; old != nil {
		if old.busy != nil {
			return grant{}, old.busy, nil
		}
		shared, ok := m.takeOver(p, old, h.kind)
		if !ok {
			return grant{}, nil, inUse(p, addr, old)
		}
		h.tokens = shared
		p.book.held[addr] = h
		g.undo = write{ops: []journal.Op{putHeld(p.id.bookKey, addr, old)}, done: func() { p.book.held[addr] = old }}
	} else if was, ok := p.book.hold(addr, h); ok {
		g.undo = write{ops: []journal.Op{putFreed(p.id.bookKey, was)}, done: func() { p.book.remember(was) }}
	} else {
		g.undo = write{ops: []journal.Op{deleteAddress(p.id.bookKey, addr)}, done: func() { p.book.forget(addr) }}
	}
	g.w.ops = append(g.w.ops, putHeld(p.id.bookKey, addr, h))
	if h.kind == KindEndpoint && !p.rec.Started {
		p.rec.Started = true
		g.w.ops = append(g.w.ops, putPool(p, p.rec))
	}
	return g, nil, nil
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
// asked for by itself.
func (p *pool) choose(req AddressRequest, kind Kind) (netip.Addr, error) {
	if req.Address.IsValid() {
		a := req.Address.Unmap()
		return a, p.book.check(a)
	}
	rng := p.id.dynamic()
	a, ok := p.book.pick(rng, req.Name)
	if kind == KindGateway {
		rng = p.id.subnet
		a, ok = p.book.lowest()
	}
	if !ok {
		return netip.Addr{}, exhausted(p, rng)
	}
	return a, nil
}

// takeOver says who holds an address that is in use once p asks for it, and
// whether p may: in the global space always; in the local space if the engine has
// forgotten all its holders, or if both are the gateway (or the same aux address)
// of one network before and after a restart of the engine.
func (m *IPAM) takeOver(p *pool, old *holding, kind Kind) ([]token, bool) {
	mine := []token{p.id.token}
	switch {
	case old.kind == kindLimbo:
		return nil, false
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
	return refuse(ErrExhausted, "remove containers that are not needed, or create the network with a larger --subnet or --ip-range (weft ipam shows who has what)",
		"pool %s%s has %d addresses and %d are in use (%d gateway, %d aux, %d containers)",
		rng, part, size, used, kinds[KindGateway], kinds[KindAux], kinds[KindEndpoint])
}

// ReleaseAddress frees an address that the pool holds. Whatever the pool does not
// hold, and unknown or malformed pools, are success. A release whose write fails
// is repeated by the next call.
func (m *IPAM) ReleaseAddress(ctx context.Context, id string, addr netip.Addr) error {
	if err := m.enter(ctx, 1); err != nil {
		return fmt.Errorf("release address: %w", err)
	}
	defer m.gate.Release(1)
	for {
		m.mu.Lock()
		w, busy, wait := m.free(id, addr.Unmap())
		m.mu.Unlock()
		switch {
		case wait != nil:
			select {
			case <-wait:
			case <-ctx.Done():
				return fmt.Errorf("release address: %w", ctx.Err())
			}
		case busy == nil:
			return nil
		default:
			err := m.commit(ctx, w, w)
			close(busy)
			if err != nil {
				return fmt.Errorf("release address %s: %w", addr, err)
			}
			return nil
		}
	}
}

// free returns the write that releases an address, which is busy until it is
// done; a nil busy means that there is nothing to release. The caller holds mu.
func (m *IPAM) free(id string, addr netip.Addr) (w write, busy chan struct{}, wait <-chan struct{}) {
	p, err := m.lookup(id)
	if err != nil {
		return write{}, nil, nil
	}
	h := p.book.held[addr]
	switch {
	case h == nil || !h.heldBy(p.id.token):
		return write{}, nil, nil
	case h.busy != nil:
		return write{}, nil, h.busy
	}
	h.busy = make(chan struct{})
	if len(h.tokens) > 1 {
		left := *h
		left.busy = nil
		left.tokens = slices.DeleteFunc(slices.Clone(h.tokens), func(t token) bool { return t == p.id.token })
		w.ops = append(w.ops, putHeld(p.id.bookKey, addr, &left))
		w.done = func() { *h = left }
		return w, h.busy, nil
	}
	f := p.book.nextFreed(addr, h.name)
	w.ops = append(w.ops, putFreed(p.id.bookKey, f))
	old, tooMany := p.book.overflow()
	if tooMany {
		p.book.hold(old.addr, &holding{kind: kindLimbo, busy: h.busy})
		w.ops = append(w.ops, deleteAddress(p.id.bookKey, old.addr))
	}
	w.done = func() {
		p.book.remember(f)
		if tooMany {
			p.book.forget(old.addr)
		}
	}
	return w, h.busy, nil
}

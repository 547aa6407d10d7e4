package ipam

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/journal"
)

// Two complete answers this far apart must lack what is collected, and it must
// be this old.
const (
	leakApart = 60 * time.Second
	leakAge   = 5 * time.Minute
)

// Holders is a complete answer to who uses what on this host. Whoever cannot give
// a complete one returns an error instead.
type Holders struct {
	// Addresses are those of all endpoints, whatever their network.
	Addresses map[netip.Addr]bool
	// Subnets are those of all networks, masked.
	Subnets map[netip.Prefix]bool
	// At is when the gathering began.
	At time.Time
}

// Collected is what [IPAM.CollectLeaks] freed.
type Collected struct {
	// Addresses are those of endpoints in pools that live on.
	Addresses []netip.Addr
	// Pools are the IDs of pools that ended with all their addresses.
	Pools []string
}

// suspect is an address in use, or a pool if addr is the zero address. since
// tells it from a later use of the same address.
type suspect struct {
	token token
	addr  netip.Addr
	since time.Time
}

// CollectLeaks frees what nobody uses: it asks holders, or Config.Holders if that
// is nil, and collects what this and an earlier answer lack. The two are at least
// 60 s apart, no answer between them had it, and it was at least 5 minutes old.
// When nobody can say who uses what, nothing is collected.
//
// A gateway or aux address goes with its pool. Single addresses of the global
// space are never collected: their users are on other hosts.
func (m *IPAM) CollectLeaks(ctx context.Context, holders func(context.Context) (Holders, error)) (Collected, error) {
	if holders == nil {
		holders = m.cfg.Holders
	}
	if holders == nil {
		return Collected{}, nil
	}
	answer, err := holders(ctx)
	if err != nil {
		return Collected{}, under("collect leaks", err)
	}
	if answer.At.IsZero() || answer.At.After(m.now()) {
		return Collected{}, refuse(ErrConfig, "set Holders.At to when the gathering began", "an answer of Holders is dated %v", answer.At)
	}
	if err := m.enter(ctx, whole); err != nil {
		return Collected{}, under("collect leaks", err)
	}
	defer m.gate.Release(whole)
	m.mu.Lock()
	out, w := m.sweep(m.judge(answer))
	m.mu.Unlock()
	if len(w.ops) == 0 {
		return out, nil
	}
	if err := m.commit(ctx, w, w); err != nil {
		return Collected{}, under("collect leaks", err)
	}
	m.cfg.Logger.Info("collected leaked addresses", "addresses", out.Addresses, "pools", out.Pools)
	return out, nil
}

// judge takes an answer into account and returns who is guilty by now. The caller
// holds mu.
func (m *IPAM) judge(answer Holders) map[suspect]bool {
	guilty := make(map[suspect]bool)
	now := make(map[suspect]time.Time)
	accuse := func(s suspect) {
		first, known := m.suspects[s]
		if !known || first.After(answer.At) {
			first = answer.At
		}
		if s.since.After(answer.At) {
			return
		}
		now[s] = first
		guilty[s] = answer.At.Sub(first) >= leakApart && answer.At.Sub(s.since) >= leakAge
	}
	for t, p := range m.pools {
		if !answer.Subnets[p.id.subnet] {
			accuse(suspect{token: t, since: p.rec.Since})
		}
		if p.id.space == spaceGlobal {
			continue
		}
		for a, h := range p.book.held {
			if h.kind == KindEndpoint && h.heldBy(t) && !answer.Addresses[a] {
				accuse(suspect{t, a, h.since})
			}
		}
	}
	m.suspects = now
	return guilty
}

// sweep returns the write that frees the guilty. A pool goes only if no endpoint
// in it is left; one that is superseded goes when it is empty, guilty or not. The
// caller holds the whole gate and mu.
func (m *IPAM) sweep(guilty map[suspect]bool) (Collected, write) {
	var out Collected
	var drop []*pool
	var w write
	var dones []func()
	for _, p := range m.sorted() {
		t, key := p.id.token, p.id.bookKey
		local := p.id.space == spaceLocal
		var leaked []netip.Addr
		left, mine := 0, 0
		for a, h := range p.book.held {
			if !h.heldBy(t) {
				continue
			}
			mine++
			switch {
			case !local || h.kind != KindEndpoint:
			case guilty[suspect{t, a, h.since}]:
				leaked = append(leaked, a)
			default:
				left++
			}
		}
		empty := mine == 0 || local && left == 0
		if left == 0 && guilty[suspect{token: t, since: p.rec.Since}] || p.rec.Superseded && empty {
			drop = append(drop, p)
			out.Pools = append(out.Pools, p.id.String())
			continue
		}
		slices.SortFunc(leaked, netip.Addr.Compare)
		for _, a := range leaked {
			op, done := p.collect(key, a)
			w.ops = append(w.ops, op)
			dones = append(dones, done)
		}
		out.Addresses = append(out.Addresses, leaked...)
	}
	dropped := m.dropPools(drop)
	w.ops = append(w.ops, dropped.ops...)
	w.done = func() {
		for _, done := range append(dones, dropped.done) {
			done()
		}
	}
	return out, w
}

// collect frees one address, which is then the one freed last.
func (p *pool) collect(key bookKey, a netip.Addr) (journal.Op, func()) {
	b := p.book
	f := b.nextFreed(a, b.held[a].name)
	return putFreed(key, f), func() { b.remember(f) }
}

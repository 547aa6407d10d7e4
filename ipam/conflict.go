package ipam

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ownership"
)

// askBackEvery is the pause before the owner of an address that is in conflict is
// asked again: what uses it there may have ended.
const askBackEvery = 10 * time.Second

// A Conflict is an address that a container has here and that belongs to another
// host: this one was removed while it ran, or is a copy of another one. Nobody may
// reach the container at it, so it has to be kept off the network.
type Conflict struct {
	// Network is the engine's id of the network, empty if that is not known.
	Network string
	Address netip.Addr
	// Owner is the host that has it now; empty if all hosts share it, or if the store
	// did not say yet.
	Owner ownership.Host
}

// conflicts are the addresses of containers on a book that belong to somebody else.
// One gets in when the store says so, and out when this host owns it or no container
// has it. That the store is away, or does not name the owner after a wipe, ends none.
type conflicts map[netip.Addr]*conflict

type conflict struct {
	owner ownership.Host // see Conflict
	said  bool           // by the store: an earlier run may have known
	asked time.Time      // the owner, for the last time
}

// foreign reports whether a container has an address that is not this host's. What
// Swarm's leader gave, by leaders, stands above the owners.
func (b *book) foreign(a netip.Addr, leaders func(*holding) bool) bool {
	h := b.held[a]
	return h != nil && h.kind == KindEndpoint && !b.own.Owns(a) && !leaders(h)
}

// look takes over what the store says by now. It returns, in ascending order, the
// addresses of containers that are not this host's, and of the conflicts those that
// it told of first and those that ended.
func (c conflicts) look(b *book, leaders func(*holding) bool) (foreign, began, ended []netip.Addr) {
	for a := range c {
		if !b.foreign(a, leaders) {
			delete(c, a)
			ended = append(ended, a)
		}
	}
	for _, a := range b.own.Strays() {
		if !b.foreign(a, leaders) {
			continue
		}
		foreign = append(foreign, a)
		owner, taken := b.own.Taken(a)
		if !taken {
			continue
		}
		if c[a] == nil {
			c[a] = &conflict{}
		}
		if !c[a].said {
			c[a].said = true
			began = append(began, a)
		}
		c[a].owner = owner
	}
	slices.SortFunc(ended, netip.Addr.Compare)
	return foreign, began, ended
}

// resume takes every address for a conflict that a container has and the journal does
// not own: an earlier run gave up the id that owned it. Until the store says
// otherwise another host may use it.
func (c conflicts) resume(b *book, leaders func(*holding) bool) {
	for _, a := range b.own.Strays() {
		if b.foreign(a, leaders) {
			c[a] = &conflict{}
		}
	}
}

// Conflicts returns the addresses that containers have here and that belong to
// another host, by address. It costs nothing while there are none.
func (m *IPAM) Conflicts() []Conflict {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Conflict
	for _, b := range m.books {
		if b.share == nil {
			continue
		}
		for a, c := range b.share.conflicts {
			if !b.foreign(a, m.leaders) {
				continue
			}
			for _, t := range b.held[a].tokens {
				if p := m.pools[t]; p != nil {
					out = append(out, Conflict{Network: p.rec.Network, Address: a, Owner: c.owner})
				}
			}
		}
	}
	slices.SortFunc(out, func(x, y Conflict) int {
		return cmp.Or(x.Address.Compare(y.Address), cmp.Compare(x.Network, y.Network))
	})
	return out
}

// tellConflicts calls OnConflict if the conflicts changed since it did last. Only Run
// calls it.
func (m *IPAM) tellConflicts() {
	if now := m.Conflicts(); !slices.Equal(now, m.told) {
		m.told = now
		m.cfg.OnConflict()
	}
}

// claimConflicts wishes for the addresses of containers that are not this host's,
// until there are none. It returns the questions to the owners of the others. The
// caller holds mu.
func (m *IPAM) claimConflicts(ctx context.Context, sh *share) (asks []func()) {
	if !sh.claim {
		return nil
	}
	foreign, began, ended := sh.conflicts.look(sh.book, m.leaders)
	for _, a := range began {
		does := "restart what has it; until then weft keeps its endpoint off the network"
		if sh.book.held[a].name == ownName {
			does = "it is this host's own, which takes another one"
		}
		m.cfg.Logger.Error("an address is in use here and belongs to another host: "+does,
			"address", a, "name", sh.book.held[a].name, "owner", m.cfg.Cluster.Name(sh.conflicts[a].owner))
	}
	for _, a := range ended {
		m.cfg.Logger.Info("an address is in conflict no more: it is this host's again, or not in use here", "address", a)
	}
	// While the cluster recovers, addresses may still get lost.
	sh.claim = len(foreign) > 0 || !sh.own.Open()
	if !sh.own.Synced() || !m.inside(sh) {
		return nil
	}
	for _, a := range foreign {
		if c := sh.conflicts[a]; !sh.own.Want(a) && c != nil && len(asks) < askAtOnce {
			asks = append(asks, m.askBack(ctx, sh, a, c)...)
		}
	}
	return asks
}

// askBack asks the owner of an address in conflict for it, once in a while: if nobody
// uses it there, this host gets it and the conflict ends. The caller holds mu.
func (m *IPAM) askBack(ctx context.Context, sh *share, a netip.Addr, c *conflict) []func() {
	if c.owner == "" || !sh.own.Open() || m.reachable(sh) != nil || time.Since(c.asked) < askBackEvery || !m.cfg.Cluster.Connected(c.owner) {
		return nil
	}
	c.asked = time.Now()
	sh.out++
	owner, ask := c.owner, ownership.Ask{Pool: ownersPrefix(sh), Address: a}
	return []func(){func() {
		limited, cancel := context.WithTimeout(ctx, commitTime)
		defer cancel()
		why, err := m.cfg.Cluster.Ask(limited, owner, ask)
		m.cfg.Logger.Debug("asked for an address in conflict", "address", a, "refused", why, "err", err)
		m.mu.Lock()
		defer m.mu.Unlock()
		sh.out--
		m.notify(sh)
	}}
}

// leaders reports whether Swarm's leader gave an address: it stands above the owners.
func (m *IPAM) leaders(h *holding) bool {
	return slices.ContainsFunc(h.tokens, func(t token) bool { return m.pools[t] != nil && m.fromLeader(m.pools[t]) })
}

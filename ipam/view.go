package ipam

import (
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ownership"
)

// A PoolView is one pool as an operator sees it.
type PoolView struct {
	// ID is the PoolID; Space is [LocalSpace] or [GlobalSpace].
	ID, Space, Domain string
	// Network is the network on the pool, empty if that is not known.
	Network string
	// Superseded says that the engine has forgotten this pool for a newer one.
	Superseded bool
	Subnet     netip.Prefix
	// Range is the zero prefix if the dynamic choice is not restricted.
	Range netip.Prefix
	Since time.Time
	// Used is how many addresses the pool holds. Free is how many the dynamic
	// choice has left, at most the largest uint64.
	Used, Free uint64
	// Addresses are those in use, in ascending order.
	Addresses []AddressView
	// Cooling are free addresses that were in use, oldest first: they come last.
	Cooling []netip.Addr
	// Foreigners are addresses that machines have which are not weft's, by address.
	Foreigners []Foreigner
	// Cluster is nil for a pool of this host alone.
	Cluster *ClusterView
}

// A ClusterView is what the hosts have in common of a pool, as this host last saw
// it.
type ClusterView struct {
	// Store is the UUID of the cluster, Pool that of the pool.
	Store, Pool string
	// Members are the hosts with a network on the pool.
	Members []ownership.Host
	// Owners says how many addresses each host owns, Dead how many hosts had that an
	// operator removed.
	Owners, Dead map[ownership.Host]int
	// Own is how many addresses this host may hand out without asking anybody,
	// Unowned how many nobody has, at most 1<<62.
	Own     int
	Unowned uint64
	// Shared are gateways and aux addresses, which no host owns.
	Shared []netip.Addr
	// Bad are records of the store that this host cannot read.
	Bad map[netip.Addr]error
	// Problem says why this host cannot join or leave the pool as it should; nil if it can.
	Problem error
}

// An AddressView is one address in use.
type AddressView struct {
	Address netip.Addr
	Kind    Kind
	// Name is the container's, on engines from 29.0.
	Name  string
	Since time.Time
	// Leaked says that the last answer about who uses what did not have it: it is
	// freed if the next one does not either. Conflict says that the store gives it to
	// another host.
	Leaked, Conflict bool
}

// View returns all pools, by space, domain and subnet.
func (m *IPAM) View() []PoolView {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]PoolView, 0, len(m.pools))
	for _, p := range m.sorted() {
		size, used := p.book.count(p.id.dynamic())
		v := PoolView{
			ID: p.id.String(), Space: LocalSpace, Domain: p.id.domain, Network: p.rec.Network, Superseded: p.rec.Superseded,
			Subnet: p.id.subnet, Range: p.id.rng, Since: p.rec.Since, Free: size - used - p.book.others(p.id.dynamic()),
		}
		if p.id.space == spaceGlobal {
			v.Space = GlobalSpace
		}
		for a, h := range p.book.held {
			if h.heldBy(p.id.token) {
				_, leaked := m.suspects[suspect{p.id.token, a, h.since}]
				v.Addresses = append(v.Addresses, AddressView{Address: a, Kind: h.kind, Name: h.name, Since: h.since,
					Leaked: leaked, Conflict: p.book.share != nil && p.book.share.conflicts[a] != nil})
			}
		}
		for _, f := range p.book.freed {
			if p.book.own == nil || p.book.own.Owns(f.addr) { // others may use what was given away
				v.Cooling = append(v.Cooling, f.addr)
			}
		}
		if sh := p.book.share; sh != nil {
			v.Cluster = m.viewShare(sh, p.id.dynamic())
			v.Free = uint64(v.Cluster.Own) + v.Cluster.Unowned
		}
		if l := m.lineOf(p); l != nil {
			v.Foreigners = m.foreignersIn(l, p.book, p.id.subnet)
		}
		v.Used = uint64(len(v.Addresses))
		slices.SortFunc(v.Addresses, func(x, y AddressView) int { return x.Address.Compare(y.Address) })
		out = append(out, v)
	}
	return out
}

// viewShare is what the hosts have in common, in the range of a pool. The caller
// holds mu.
func (m *IPAM) viewShare(sh *share, rng netip.Prefix) *ClusterView {
	v := &ClusterView{
		Store: sh.rec.Store, Pool: sh.rec.Pool.UUID, Members: sh.rec.Pool.Members,
		Owners: sh.own.Owners(rng), Dead: sh.own.DeadOwners(rng), Own: sh.own.Free(rng), Unowned: sh.own.Unowned(rng),
		Shared: sh.own.AllShared(), Bad: sh.own.Bad(), Problem: sh.trouble.err,
	}
	if !sh.own.Synced() {
		v.Unowned = 0 // the store was not seen: who knows
	}
	if m.cfg.Cluster != nil {
		if p, ok := m.cfg.Cluster.Known(sh.rec.Pool.Domain, sh.rec.Pool.Subnet); ok {
			v.Members = p.Members
		}
	}
	return v
}

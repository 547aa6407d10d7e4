package ipam

import (
	"net/netip"
	"slices"
	"time"
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
}

// An AddressView is one address in use.
type AddressView struct {
	Address netip.Addr
	Kind    Kind
	// Name is the container's, on engines from 29.0.
	Name  string
	Since time.Time
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
			Subnet: p.id.subnet, Range: p.id.rng, Since: p.rec.Since, Free: size - used,
		}
		if p.id.space == spaceGlobal {
			v.Space = GlobalSpace
		}
		for a, h := range p.book.held {
			if h.heldBy(p.id.token) {
				v.Addresses = append(v.Addresses, AddressView{Address: a, Kind: h.kind, Name: h.name, Since: h.since})
			}
		}
		v.Used = uint64(len(v.Addresses))
		slices.SortFunc(v.Addresses, func(x, y AddressView) int { return x.Address.Compare(y.Address) })
		out = append(out, v)
	}
	return out
}

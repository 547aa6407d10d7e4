package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
)

// ownName is the name of this host's own addresses; no container can have it.
const ownName = "(this host)"

// HostAddresses returns the addresses that this host itself has on a network, with the
// prefix lengths of its pools, and those of them that belong to another host by now (see
// [Conflict]); none if it never took any. It does not wait.
func (m *IPAM) HostAddresses(network string) (own, lost []netip.Prefix) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.ofNetwork(network) {
		a, ok := p.ownAddress()
		prefix := netip.PrefixFrom(a, p.id.subnet.Bits())
		switch {
		case ok && m.lost(p, a):
			lost = append(lost, prefix)
		case ok:
			own = append(own, prefix)
		}
	}
	return own, lost
}

// lost reports whether an address of a pool that is in use here is another host's. The
// caller holds mu.
func (m *IPAM) lost(p *pool, a netip.Addr) bool {
	return p.book.share != nil && p.book.share.conflicts[a] != nil && p.book.foreign(a, m.leaders)
}

// TakeHostAddresses is HostAddresses of a network where this host takes one address of
// each family if it has none, and another one for each that it lost. They live as long
// as the network's pools.
func (m *IPAM) TakeHostAddresses(ctx context.Context, network string) ([]netip.Prefix, error) {
	m.mu.Lock()
	pools := m.ofNetwork(network)
	m.mu.Unlock()
	var out []netip.Prefix
	families := make(map[bool]bool)
	for _, p := range pools {
		v6 := p.id.subnet.Addr().Is6()
		if families[v6] {
			continue
		}
		families[v6] = true
		m.mu.Lock()
		a, ok := p.ownAddress()
		lost := ok && m.lost(p, a)
		m.mu.Unlock()
		got := netip.PrefixFrom(a, p.id.subnet.Bits())
		if lost {
			if err := m.ReleaseAddress(ctx, p.id.String(), a); err != nil {
				return nil, fmt.Errorf("give up this host's own address %s, which is another host's: %w", a, err)
			}
		}
		if !ok || lost {
			var err error
			if got, err = m.request(ctx, AddressRequest{PoolID: p.id.String(), Name: ownName}); err != nil {
				return nil, fmt.Errorf("address of this host itself on the network: %w", err)
			}
		}
		out = append(out, got)
	}
	return out, nil
}

// ReleaseHostAddresses gives back what this host itself has on a network, for which the
// next TakeHostAddresses asks on the line where the network is then.
func (m *IPAM) ReleaseHostAddresses(ctx context.Context, network string) error {
	m.mu.Lock()
	pools := m.ofNetwork(network)
	m.mu.Unlock()
	var errs []error
	for _, p := range pools {
		m.mu.Lock()
		a, ok := p.ownAddress()
		m.mu.Unlock()
		if ok {
			errs = append(errs, m.ReleaseAddress(ctx, p.id.String(), a))
		}
	}
	return errors.Join(errs...)
}

// ofNetwork returns the pools of a network, oldest first. The caller holds mu.
func (m *IPAM) ofNetwork(network string) []*pool {
	var out []*pool
	for _, p := range m.sorted() {
		if p.rec.Network == network && p.id.space == spaceLocal && !p.rec.Superseded {
			out = append(out, p)
		}
	}
	return out
}

// ownAddress is this host's own address in a pool.
func (p *pool) ownAddress() (netip.Addr, bool) {
	for a, h := range p.book.held {
		if h.name == ownName && h.heldBy(p.id.token) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// Shared returns the domain of the pool of a network's subnet, or of a network that is
// being created, if that is the cluster's: "" for the domain of all that name none. Else
// the error says what to do. A pool of the subnet that is another network's is none.
func (m *IPAM) Shared(network string, subnet netip.Prefix) (domain string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	newest := m.newestPool(network, subnet)
	switch {
	case newest == nil:
		return "", refuse(ErrUnknownPool, "name weft twice: docker network create -d weft:latest --ipam-driver weft:latest -o mode=overlay …",
			"subnet %s: another IPAM driver gives its addresses, which would collide between hosts", subnet)
	case newest.book.share == nil:
		return "", refuse(ErrConfig, "leave --ipam-opt domain=host out", "subnet %s: its addresses are this host's alone, and would collide between hosts", subnet)
	case newest.id.domain == DomainCluster:
		return "", nil
	}
	return newest.id.domain, nil
}

// Gives reports whether a network's subnet, or that of a network that is being created,
// is a pool of this book.
func (m *IPAM) Gives(network string, subnet netip.Prefix) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.newestPool(network, subnet) != nil
}

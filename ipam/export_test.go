package ipam

import (
	"context"
	"net/netip"
)

// HoldGate keeps every change of the book waiting until the returned function is called.
func (m *IPAM) HoldGate(ctx context.Context) (release func(), err error) {
	if err := m.enter(ctx, whole); err != nil {
		return nil, err
	}
	return func() { m.gate.Release(whole) }, nil
}

// Trim counts the free addresses now, as Run does every trimEvery.
func (m *IPAM) Trim() { m.each(m.trim) }

// Proven reports whether a line counts an address as nobody's.
func (m *IPAM) Proven(a netip.Addr) (yes bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.books {
		for _, l := range b.lines {
			yes = yes || l.proven(a, m.now())
		}
	}
	return yes
}

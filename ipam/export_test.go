package ipam

import "context"

// HoldGate keeps every change of the book waiting until the returned function is called.
func (m *IPAM) HoldGate(ctx context.Context) (release func(), err error) {
	if err := m.enter(ctx, whole); err != nil {
		return nil, err
	}
	return func() { m.gate.Release(whole) }, nil
}

// Trim counts the free addresses now, as Run does every trimEvery.
func (m *IPAM) Trim() { m.each(m.trim) }

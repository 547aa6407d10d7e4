package ipam

import (
	"context"
	"net/netip"
	"time"

	"github.com/weft-net/weft/internal/journal"
)

// adoptEvery is the pause between two questions of a blind IPAM.
const adoptEvery = time.Second

// adopt asks, as long as the IPAM is blind, which addresses are in use: the journal
// that knew is lost.
func (m *IPAM) adopt(ctx context.Context) {
	for m.isBlind() {
		answer, err := m.cfg.Holders(ctx)
		if err == nil {
			m.mu.Lock()
			m.strangers, m.blind = answer.Addresses, false
			m.mu.Unlock()
			m.cfg.Logger.Info("addresses that an earlier journal gave out stay out of use", "addresses", len(answer.Addresses))
			return
		}
		m.cfg.Logger.Debug("which addresses are in use", "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(adoptEvery):
		}
	}
}

func (m *IPAM) isBlind() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.blind
}

// sees refuses new pools and addresses while the IPAM is blind.
func (m *IPAM) sees() error {
	if !m.isBlind() {
		return nil
	}
	return refuse(ErrHost, "wait until the engine answers, put the old journal back, or remove what is there with `weft reset --yes`",
		"the journal is new, but links of weft are there, and the engine did not say yet which addresses are in use")
}

// adopted are the changes that keep strangers in the subnet of a new pool out of
// use. They are freed like leaked addresses, once the engine has forgotten them.
func (m *IPAM) adopted(p *pool) (ops, undo []journal.Op, done func()) {
	held := make(map[netip.Addr]*holding)
	for a := range m.strangers {
		if p.id.space == spaceLocal && p.id.subnet.Contains(a) {
			held[a] = &holding{kind: KindEndpoint, name: "adopted", tokens: []token{p.id.token}, since: m.now()}
			ops = append(ops, putHeld(p.id.bookKey, a, held[a]))
			undo = append(undo, deleteAddress(p.id.bookKey, a))
		}
	}
	return ops, undo, func() {
		for a, h := range held {
			if p.book.held[a] == nil {
				p.book.hold(a, h)
			}
		}
		if p.book.share != nil {
			p.book.share.claim = true // none of them is this host's
		}
	}
}

package firewall

import (
	"context"
	"errors"
	"fmt"

	"github.com/coreos/go-iptables/iptables"
)

// DropByDefault makes the host drop what it would forward and nobody accepts, for who is
// about to turn forwarding of a family on: a host that begins to forward for containers is
// no router for its neighbours. It sets the policy of FORWARD as the engine does in the same
// place (all engines for IPv4, from 27.0 on for IPv6), and only where that filters:
// where DOCKER-USER is reached. It reports whether FORWARD drops by default there, be it by
// weft or already. The policy stays when weft goes, like forwarding.
func (n *NFT) DropByDefault(ctx context.Context, v6 bool) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	drops, err := n.gate.dropByDefault(v6)
	if err != nil {
		return drops, fmt.Errorf("policy of %s: %w", chainForward, err)
	}
	return drops, nil
}

func (g *gate) dropByDefault(v6 bool) (drops bool, _ error) {
	present, err := g.present(v6)
	errs := []error{err}
	for x, chains := range present {
		t, ok, err := x.read(chains)
		errs = append(errs, err)
		if !ok || !t.userReachable() {
			continue
		}
		if !t.dropsByDefault {
			g.edits.Add(1)
			err = x.use(func(ipt *iptables.IPTables) error { return ipt.ChangePolicy(filterName, chainForward, "DROP") })
			errs = append(errs, err)
		}
		drops = drops || err == nil
	}
	if drops {
		return true, nil // the engine filters in one flavour; the other one's lock may be held
	}
	return false, errors.Join(errs...)
}

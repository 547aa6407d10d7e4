package firewall

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// take makes a step in the kernel and books it. If it fails, nothing is booked,
// except that facts which were to go are gone.
func (n *NFT) take(ctx context.Context, s *step) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	after := len(n.ledger.networks) + s.networks
	switch {
	case after == 0:
		s.commit()
		if !n.active {
			return nil
		}
		return n.uninstall(ctx)
	case n.active && n.tunnels.fits(s.tunnel()):
		in := allTables()
		if !n.tunnels.loaded { // the kernel refused the other table
			in = []table{hostTable()}
		}
		err := n.tables.apply(s.change(), in...)
		if err == nil {
			s.commit()
			return nil
		}
		n.log.Warn("table is not as weft left it", "table", tableName, "error", err)
	}
	before := n.ledger.clone()
	s.commit()
	repaired, err := n.mend(ctx)
	if err == nil {
		n.log.Debug("table mended", "table", tableName, "repaired", repaired)
		return nil
	}
	n.ledger = before
	if len(before.networks) == 0 {
		return errors.Join(err, n.uninstall(ctx))
	}
	return err
}

// mend compares the kernel with the ledger and makes them agree.
func (n *NFT) mend(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(n.ledger.networks) == 0 {
		return n.clear()
	}
	want := elements(n.ledger.facts())
	repaired, err := n.mendTable(ctx, hostTable(), want)
	if err != nil {
		return repaired, err
	}
	n.active = true
	more, tunnelsErr := n.mendTunnels(ctx, want)
	shortcuts, shortcutsErr := n.mendShortcuts(ctx)
	coexist, changed, err := n.gate.open()
	n.coexist = coexist
	return slices.Concat(repaired, more, shortcuts, changed), errors.Join(tunnelsErr, shortcutsErr, err)
}

// mendTunnels does for the tunnels' table what mend does for the host's: it may
// have to go. A kernel that does not take it is no error: nothing but the gateways'
// ARP depends on it.
func (n *NFT) mendTunnels(ctx context.Context, want map[setName][]element) ([]string, error) {
	t := tunnelTable()
	if n.ledger.tunnel == 0 {
		dropped, err := n.tables.drop(t)
		if err != nil {
			return nil, err
		}
		n.tunnels = tunnels{}
		delete(n.digests, t.String())
		if len(dropped) > 0 {
			return []string{fmt.Sprintf("table %s: removed, no network has a tunnel", t)}, nil
		}
		return nil, nil
	}
	repaired, err := n.mendTable(ctx, t, want)
	if errors.Is(err, ErrNoNFTables) {
		if n.tunnels.refused == nil {
			n.log.Warn("frames about gateways are not kept out of the tunnels: the kernel lacks nf_tables for bridges", "table", t, "error", err)
		}
		n.tunnels = tunnels{refused: err}
		return nil, nil
	}
	if err == nil {
		n.tunnels = tunnels{loaded: true}
	}
	return repaired, err
}

func (n *NFT) mendTable(ctx context.Context, t table, want map[setName][]element) ([]string, error) {
	if reason := n.broken(t); reason != "" {
		return []string{fmt.Sprintf("table %s: %s", t, reason)}, n.install(ctx, t, want)
	}
	have, err := n.tables.elements(t)
	if err != nil {
		n.log.Warn("set cannot be read", "table", t, "error", err)
		return []string{fmt.Sprintf("table %s: its sets cannot be read", t)}, n.install(ctx, t, want)
	}
	c := diff(t, have, want)
	var repaired []string
	for _, set := range c.sets() {
		repaired = append(repaired, fmt.Sprintf("set %s: %d elements added, %d removed", set, len(c.add[set]), len(c.remove[set])))
	}
	if err := n.tables.apply(c, t); err != nil {
		n.log.Warn("sets cannot be mended", "table", t, "error", err)
		return repaired, n.install(ctx, t, want)
	}
	return repaired, nil
}

// broken says what is wrong with the rules of the table; nothing if empty.
func (n *NFT) broken(t table) string {
	if n.digests[t.String()] == "" {
		return "not known to be as this process would load it"
	}
	switch ok, err := n.tables.exists(t.family, t.name); {
	case err != nil:
		return "it cannot be read"
	case !ok:
		return "it was gone"
	}
	digest, _, err := n.tables.fingerprint(t)
	switch {
	case err != nil:
		return "it cannot be read"
	case digest != n.digests[t.String()]:
		return "its rules were changed"
	}
	return ""
}

// install replaces the whole table in one transaction.
func (n *NFT) install(ctx context.Context, t table, want map[setName][]element) error {
	program := n.config.NftPath
	if program == "" {
		program = "nft"
	}
	// The kernel lets nft end only when what it deleted is gone, which takes a while.
	there, err := n.tables.exists(t.family, t.name)
	if err := t.load(ctx, n.tables.ns, program, t.ruleset(want, there || err != nil)); err != nil {
		return err
	}
	n.learn(t)
	return nil
}

// learn takes what the kernel shows of the table for how it should be.
func (n *NFT) learn(t table) {
	digest, rules, err := n.tables.fingerprint(t)
	if err != nil || rules != t.rules() {
		// Somebody was at it between the load and the look: the next look mends it.
		n.log.Warn("table changed while it was loaded", "table", t, "rules", rules, "error", err)
		digest = ""
	}
	n.digests[t.String()] = digest
}

// clear is the mending of a host without networks.
func (n *NFT) clear() ([]string, error) {
	dropped, changed, err := n.remove()
	var repaired []string
	for _, t := range dropped {
		repaired = append(repaired, fmt.Sprintf("table %s: removed, there is no network", t))
	}
	return append(repaired, changed...), err
}

// uninstall removes everything of weft from the kernel.
func (n *NFT) uninstall(context.Context) error {
	_, _, err := n.remove()
	return err
}

func (n *NFT) remove() (dropped []table, changed []string, err error) {
	changed, err = n.gate.close()
	shortcuts, listErr := n.tables.shortcuts()
	dropped, dropErr := n.tables.drop(append(shortcuts, allTables()...)...)
	err = errors.Join(err, listErr, dropErr)
	if err == nil {
		n.active, n.coexist, n.tunnels = false, nil, tunnels{}
		clear(n.refused)
	}
	return dropped, changed, err
}

// joinZones puts all bridges into the zone, in one go: a zone manager that does
// not answer takes its time once.
func (n *NFT) joinZones(ctx context.Context) ([]string, error) {
	if n.config.Zones == nil || len(n.ledger.networks) == 0 {
		return nil, nil
	}
	var bridges []string
	for _, network := range n.ledger.networks {
		bridges = append(bridges, network.Bridge)
	}
	slices.Sort(bridges)
	joined, err := n.config.Zones.Join(ctx, bridges...)
	if err != nil {
		err = fmt.Errorf("joining the zone: %w", err)
	}
	return joined, err
}

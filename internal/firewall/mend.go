package firewall

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
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
	case n.active:
		err := n.tables.apply(s.change())
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
	repaired, err := n.mendTable(ctx)
	if err != nil {
		return repaired, err
	}
	n.active = true
	coexist, changed, err := n.gate.open()
	n.coexist = coexist
	return append(repaired, changed...), err
}

func (n *NFT) mendTable(ctx context.Context) ([]string, error) {
	want := elements(n.ledger.facts())
	if reason := n.broken(); reason != "" {
		return []string{"table inet " + tableName + ": " + reason}, n.install(ctx, want)
	}
	have, err := n.tables.elements()
	if err != nil {
		n.log.Warn("set cannot be read", "table", tableName, "error", err)
		return []string{"table inet " + tableName + ": its sets cannot be read"}, n.install(ctx, want)
	}
	c := diff(have, want)
	var repaired []string
	for _, set := range c.sets() {
		repaired = append(repaired, fmt.Sprintf("set %s: %d elements added, %d removed", set, len(c.add[set]), len(c.remove[set])))
	}
	if err := n.tables.apply(c); err != nil {
		n.log.Warn("sets cannot be mended", "table", tableName, "error", err)
		return repaired, n.install(ctx, want)
	}
	return repaired, nil
}

// broken says what is wrong with the rules of the table; nothing if empty.
func (n *NFT) broken() string {
	if n.digest == "" {
		return "not known to be as this process would load it"
	}
	switch ok, err := n.tables.exists(nftables.TableFamilyINet, tableName); {
	case err != nil:
		return "it cannot be read"
	case !ok:
		return "it was gone"
	}
	digest, _, err := n.tables.fingerprint()
	switch {
	case err != nil:
		return "it cannot be read"
	case digest != n.digest:
		return "its rules were changed"
	}
	return ""
}

// install replaces the whole table in one transaction.
func (n *NFT) install(ctx context.Context, want map[setName][]element) error {
	program := n.config.NftPath
	if program == "" {
		program = "nft"
	}
	if err := load(ctx, n.tables.ns, program, ruleset(want)); err != nil {
		return err
	}
	digest, rules, err := n.tables.fingerprint()
	if err != nil || rules != skeletonRules() {
		// Somebody was at it between the load and the look: the next look mends it.
		n.log.Warn("table changed while it was loaded", "table", tableName, "rules", rules, "error", err)
		digest = ""
	}
	n.digest = digest
	return nil
}

// clear is the mending of a host without networks.
func (n *NFT) clear() ([]string, error) {
	there, err := n.tables.exists(nftables.TableFamilyINet, tableName)
	if err != nil {
		return nil, err
	}
	var repaired []string
	if there {
		repaired = append(repaired, "table inet "+tableName+": removed, there is no network")
	}
	changed, err := n.remove()
	return append(repaired, changed...), err
}

// uninstall removes everything of weft from the kernel.
func (n *NFT) uninstall(context.Context) error {
	_, err := n.remove()
	return err
}

func (n *NFT) remove() ([]string, error) {
	changed, err := n.gate.close()
	err = errors.Join(err, n.tables.drop())
	if err == nil {
		n.active, n.coexist = false, nil
	}
	return changed, err
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

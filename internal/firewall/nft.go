package firewall

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
)

// Config says what an NFT works with. The zero Config works on a host that has
// the programs in its PATH.
type Config struct {
	// NftPath is the nft program; empty means "nft".
	NftPath string
	// IPTables are the iptables programs.
	IPTables IPTables
	// Zones, if not nil, is told which bridges exist, on hosts where a zone
	// manager such as firewalld would drop the packets of an unknown interface.
	Zones Zones
	// Logger may be nil: nothing is logged.
	Logger *slog.Logger
}

// IPTables are the programs of each flavour and family; an empty path means the
// usual name. One is run only if the host has a filter table of its flavour.
type IPTables struct{ NFT4, NFT6, Legacy4, Legacy6 string }

func (p IPTables) path(f Flavour, v6 bool) string {
	switch {
	case f == FlavourNFT && !v6:
		return cmp.Or(p.NFT4, "iptables-nft")
	case f == FlavourNFT:
		return cmp.Or(p.NFT6, "ip6tables-nft")
	case !v6:
		return cmp.Or(p.Legacy4, "iptables-legacy")
	}
	return cmp.Or(p.Legacy6, "ip6tables-legacy")
}

// Zones is a zone manager that must know weft's bridges, such as [Firewalld].
// All methods are idempotent, safe for concurrent use and done within seconds.
type Zones interface {
	// Join puts the bridges into weft's zone and returns what it had to change.
	Join(ctx context.Context, bridges ...string) ([]string, error)
	// Leave takes the bridges out of weft's zone.
	Leave(ctx context.Context, bridges ...string) error
	// Reset removes everything of weft from the zone manager.
	Reset(ctx context.Context) error
	// Watch calls hint when bridges may have lost their zone, until the context
	// is done.
	Watch(ctx context.Context, hint func())
	// State is a sentence for the operator; empty if there is no zone manager.
	State() string
}

// Status is what is in force, as of the last call that looked.
type Status struct {
	// Active says whether the table is there: it is while there is a network.
	Active bool
	// Networks, Ports and Open count the facts in force.
	Networks, Ports, Open int
	// IPv4 and IPv6 say how packets pass the host's iptables.
	IPv4, IPv6 Coexistence
	// Zones says how weft gets on with the zone manager; empty without one.
	Zones string
	// Tunnels says whether ARP and neighbour discovery about gateways are kept out
	// of the tunnels; empty if no network has both.
	Tunnels string
	// Shortcuts says how frames between containers of different hosts go; empty if
	// there are none.
	Shortcuts string
}

// NFT is the firewall of one network namespace. Its methods are idempotent and
// safe for concurrent use; make it with New.
type NFT struct {
	config Config
	log    *slog.Logger

	mu      sync.Mutex // protects the following and all changes of the kernel
	tables  *tables
	gate    *gate
	ledger  *ledger
	coexist map[bool]Coexistence
	// digests are the fingerprints of the tables as this kernel shows them; those
	// that this process has not loaded are empty.
	digests map[string]string
	// active says whether the table should be there.
	active  bool
	tunnels tunnels
	// refused is why networks have no short cuts that should have some.
	refused map[string]error
}

// tunnels is how the tunnels' table is; the zero value means that there is none.
type tunnels struct {
	loaded bool
	// refused is why there should be one and is none.
	refused error
}

// fits says whether a change after which the table has so many elements leaves it
// there or not there, as it is.
func (t tunnels) fits(elements int) bool {
	return (t.loaded || t.refused != nil) == (elements > 0)
}

// state is a sentence for the operator; empty without a tunnel.
func (t tunnels) state() string {
	switch {
	case t.refused != nil:
		return "gateways are not kept out of the tunnels: " + t.refused.Error()
	case t.loaded:
		return "gateways are kept out of the tunnels"
	}
	return ""
}

// New returns the firewall of the calling thread's network namespace. It changes
// nothing: what an earlier process left is in force until Repair or the first
// AddNetwork replaces it, or Reset removes it. Close it after use.
func New(c Config) (_ *NFT, retErr error) {
	log := c.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ns, err := currentNamespace()
	if err != nil {
		return nil, fmt.Errorf("firewall: %w", err)
	}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, ns.close())
		}
	}()
	t, err := openTables(ns)
	if err != nil {
		return nil, fmt.Errorf("firewall: %w", err)
	}
	return &NFT{config: c, log: log, tables: t, gate: newGate(t, c.IPTables), ledger: newLedger(), digests: map[string]string{}, refused: map[string]error{}}, nil
}

// Close releases what the process holds. The rules stay in force.
func (n *NFT) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return errors.Join(n.tables.close(), n.tables.ns.close())
}

// AddNetwork puts a network in force, or its new description. When it returns
// nil, no packet can reach the host's loopback from the bridge.
func (n *NFT) AddNetwork(ctx context.Context, network Network) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, known := n.ledger.networks[network.ID]
	s, err := n.ledger.addNetwork(network)
	if err != nil {
		return fmt.Errorf("add network: %w", err)
	}
	if err := n.take(ctx, s); err != nil {
		return fmt.Errorf("add network %s: %w", network.ID, err)
	}
	if n.config.Zones == nil || known { // Mend sees to those that are known
		return nil
	}
	if _, err := n.config.Zones.Join(ctx, network.Bridge); err != nil {
		err = errors.Join(err, n.take(ctx, n.ledger.removeNetwork(network.ID)))
		return fmt.Errorf("add network %s: joining the zone: %w", network.ID, err)
	}
	return nil
}

// RemoveNetwork takes a network and its ports out of force. After the last one
// nothing of weft is left in the kernel. The unknown network is a success.
func (n *NFT) RemoveNetwork(ctx context.Context, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	network, known := n.ledger.networks[id]
	err := n.take(ctx, n.ledger.removeNetwork(id))
	if known {
		err = errors.Join(err, n.dropShortcuts(network))
	}
	if known && n.config.Zones != nil {
		err = errors.Join(err, n.config.Zones.Leave(ctx, network.Bridge))
	}
	if err != nil {
		return fmt.Errorf("remove network %s: %w", id, err)
	}
	return nil
}

// AddPorts publishes ports, all or none, in one transaction. Those in force
// already are left alone.
func (n *NFT) AddPorts(ctx context.Context, ports []Port, open []Open) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	s, err := n.ledger.addPorts(ports, open)
	if err == nil {
		err = n.take(ctx, s)
	}
	if err != nil {
		return fmt.Errorf("add ports: %w", err)
	}
	return nil
}

// RemovePorts takes everything that an endpoint publishes out of force, in one
// transaction. The unknown endpoint is a success.
func (n *NFT) RemovePorts(ctx context.Context, endpoint string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.take(ctx, n.ledger.removePorts(endpoint)); err != nil {
		return fmt.Errorf("remove ports of endpoint %s: %w", endpoint, err)
	}
	return nil
}

// SetUplinks says by which interfaces containers reach the outside. What leaves
// by any other interface is for the host's own rules to accept.
func (n *NFT) SetUplinks(ctx context.Context, names []string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	s, err := n.ledger.setUplinks(names)
	if err == nil {
		err = n.take(ctx, s)
	}
	if err != nil {
		return fmt.Errorf("set uplinks: %w", err)
	}
	return nil
}

// Repair makes these facts, and nothing else, be in force, and returns what it
// had to mend. The first Repair of a process takes over what an earlier one
// left. The caller sees to it that facts do not change while it runs.
func (n *NFT) Repair(ctx context.Context, facts Facts) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l, err := ledgerOf(facts)
	if err != nil {
		return nil, fmt.Errorf("repair: %w", err)
	}
	l.inherit(n.ledger)
	n.ledger = l
	repaired, err := n.mend(ctx)
	if err != nil {
		return repaired, fmt.Errorf("repair: %w", err)
	}
	joined, err := n.joinZones(ctx)
	return append(repaired, joined...), err
}

// Mend compares the kernel with the facts in force and returns what it had to
// mend. It is the answer to Watch. It does not look at a table of an earlier
// process before this one has facts.
func (n *NFT) Mend(ctx context.Context) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.active {
		return nil, nil
	}
	repaired, err := n.mend(ctx)
	if err != nil {
		return repaired, fmt.Errorf("mend: %w", err)
	}
	joined, err := n.joinZones(ctx)
	return append(repaired, joined...), err
}

// Reset removes everything of weft from the kernel, leftovers of earlier
// processes included, and forgets all facts.
func (n *NFT) Reset(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var zonesErr error
	if n.config.Zones != nil {
		zonesErr = n.config.Zones.Reset(ctx)
	}
	n.ledger = newLedger()
	if err := errors.Join(zonesErr, n.uninstall(ctx)); err != nil {
		return fmt.Errorf("reset: %w", err)
	}
	return nil
}

// Status says what is in force. It looks neither at the kernel nor at the zone
// manager.
func (n *NFT) Status(context.Context) Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := statusOf(n.ledger, n.active)
	s.IPv4, s.IPv6, s.Tunnels = n.coexist[false], n.coexist[true], n.tunnels.state()
	s.Shortcuts = n.ledger.shortcutState(n.refused)
	if n.config.Zones != nil {
		s.Zones = n.config.Zones.State()
	}
	return s
}

func statusOf(l *ledger, active bool) Status {
	f := l.facts()
	return Status{Active: active, Networks: len(f.Networks), Ports: len(f.Ports), Open: len(f.Open)}
}

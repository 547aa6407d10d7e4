package firewall

import (
	"bytes"
	"cmp"
	"context"
	_ "embed" // for the skeleton
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

//go:embed shortcuts.nft
var shortcutSkeleton string

// shortcutPrefix begins the names of the tables of short cuts; the name of the
// network's tunnel follows.
const shortcutPrefix = tableName + "-"

// A MAC is an Ethernet address.
type MAC [6]byte

// String returns the address in its usual form.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// A Device is a network device as it is now: one that is made anew under the same
// name has another index.
type Device struct {
	Name  string
	Index int
}

// A Station is a container on this host, and the host's end of its link.
type Station struct {
	MAC  MAC
	Link Device
}

// Shortcuts are the containers of one network between which frames go straight from
// link to tunnel and from tunnel to link, past the bridge: IP without ICMPv6.
type Shortcuts struct {
	// Network is the ID of a network with a tunnel.
	Network string
	// Tunnel is the network's VXLAN device.
	Tunnel Device
	// Here are the containers of this host, There those that are behind the tunnel.
	Here  []Station
	There []MAC
}

// Empty says that no frame takes a short way.
func (s Shortcuts) Empty() bool { return len(s.Here) == 0 || len(s.There) == 0 }

// Equal says whether both are the same, in the same order.
func (s Shortcuts) Equal(o Shortcuts) bool {
	return s.Network == o.Network && s.Tunnel == o.Tunnel && slices.Equal(s.Here, o.Here) && slices.Equal(s.There, o.There)
}

// Common returns what is in both, in the order of s: nothing if the tunnels differ.
func (s Shortcuts) Common(o Shortcuts) Shortcuts {
	out := Shortcuts{Network: s.Network, Tunnel: s.Tunnel}
	if s.Network != o.Network || s.Tunnel != o.Tunnel {
		return out
	}
	here, there := map[Station]bool{}, map[MAC]bool{}
	for _, x := range o.Here {
		here[x] = true
	}
	for _, x := range o.There {
		there[x] = true
	}
	for _, x := range s.Here {
		if here[x] {
			out.Here = append(out.Here, x)
		}
	}
	for _, x := range s.There {
		if there[x] {
			out.There = append(out.There, x)
		}
	}
	return out
}

// sorted returns a copy of its own in a stable order.
func (s Shortcuts) sorted() Shortcuts {
	s.Here = slices.SortedFunc(slices.Values(s.Here), func(a, b Station) int {
		return cmp.Or(bytes.Compare(a.MAC[:], b.MAC[:]), strings.Compare(a.Link.Name, b.Link.Name))
	})
	s.There = slices.SortedFunc(slices.Values(s.There), func(a, b MAC) int { return bytes.Compare(a[:], b[:]) })
	return s
}

// validate checks short cuts that are in a stable order.
func (s Shortcuts) validate() error {
	if err := s.Tunnel.validate(); err != nil {
		return fmt.Errorf("tunnel: %w", err)
	}
	names := map[string]bool{s.Tunnel.Name: true, "tunnel": true, "out": true}
	for i, x := range s.Here {
		switch err := x.Link.validate(); {
		case err != nil:
			return fmt.Errorf("link of %s: %w", x.MAC, err)
		case names[x.Link.Name]:
			return fmt.Errorf("link %s of %s: %w: it has another use", x.Link.Name, x.MAC, ErrInvalid)
		case i > 0 && s.Here[i-1].MAC == x.MAC:
			return fmt.Errorf("address %s: %w: two containers here have it, so none has a short cut", x.MAC, ErrInvalid)
		}
		names[x.Link.Name] = true
	}
	for i, m := range s.There {
		_, twice := slices.BinarySearchFunc(s.Here, m, func(x Station, m MAC) int { return bytes.Compare(x.MAC[:], m[:]) })
		if twice || i > 0 && s.There[i-1] == m {
			return fmt.Errorf("address %s: %w: it is in two places, so it has no short cut", m, ErrInvalid)
		}
	}
	return nil
}

func (d Device) validate() error {
	if d.Index <= 0 {
		return fmt.Errorf("device %q with index %d: %w: no device has it", d.Name, d.Index, ErrInvalid)
	}
	chain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_.-", r)
	}
	if strings.ContainsFunc(d.Name, func(r rune) bool { return !chain(r) }) {
		return fmt.Errorf("device %q: %w: no chain can have its name", d.Name, ErrInvalid)
	}
	return validateInterface(d.Name)
}

// table is what holds the short cuts.
func (s Shortcuts) table() table { return shortcutTable(s.Tunnel.Name, s.Here...) }

// shortcutTable is a network's table of short cuts with the chains of the containers
// here.
func shortcutTable(tunnel string, here ...Station) table {
	t := table{
		family: nftables.TableFamilyNetdev, name: shortcutPrefix + tunnel,
		skeleton: strings.ReplaceAll(shortcutSkeleton, "TUNNEL", tunnel), sets: []setName{"here", "there"},
	}
	if len(here) == 0 {
		return t
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%stable %s {\n", t.skeleton, t)
	for _, x := range here {
		fmt.Fprintf(&b, "\tchain %[1]s {\n\t\ttype filter hook ingress device %[1]q priority filter; policy accept;\n\t\t@ll,48,48 0x%[2]x goto out\n\t}\n", x.Link.Name, x.MAC[:])
	}
	b.WriteString("}\n")
	t.skeleton = b.String()
	return t
}

// elements returns what the sets of the table must hold.
func (s Shortcuts) elements() map[setName][]element {
	out := map[setName][]element{}
	for _, x := range s.Here {
		out["here"] = append(out["here"], member("here", mac(x.MAC)).to(index(x.Link.Index)))
	}
	for _, m := range s.There {
		out["there"] = append(out["there"], member("there", mac(m)))
	}
	return out
}

func mac(m MAC) field { return scalar(m.String(), m[:]) }

func index(i int) field {
	return scalar(fmt.Sprint(i), binary.NativeEndian.AppendUint32(nil, uint32(i)))
}

// lines says the short cuts in the words of a dump.
func (s Shortcuts) lines() []string {
	var out []string
	for _, es := range s.elements() {
		for _, e := range es {
			out = append(out, fmt.Sprintf("%s: %s\n", s.table(), e))
		}
	}
	for _, x := range s.Here {
		out = append(out, fmt.Sprintf("%s: chain %s\n", s.table(), x.Link.Name))
	}
	return out
}

// setShortcuts checks a network's short cuts and returns them in a stable order; those
// that are empty have no table and need no network.
func (l *ledger) setShortcuts(s Shortcuts) (Shortcuts, error) {
	if s.Empty() {
		return Shortcuts{Network: s.Network}, nil
	}
	s = s.sorted()
	if n, ok := l.networks[s.Network]; !ok || n.Tunnel != s.Tunnel.Name {
		return s, fmt.Errorf("tunnel %q: %w: no such network has it, add the network first", s.Tunnel.Name, ErrInvalid)
	}
	return s, s.validate()
}

// book makes them a fact.
func (l *ledger) book(s Shortcuts) {
	if s.Empty() {
		delete(l.shortcuts, s.Network)
	} else {
		l.shortcuts[s.Network] = s
	}
}

// inherit takes over the short cuts of another ledger's networks that are in this one
// too: they are not among the facts of a repair.
func (l *ledger) inherit(from *ledger) {
	for id, s := range from.shortcuts {
		if l.networks[id].Tunnel == s.Tunnel.Name {
			l.shortcuts[id] = s
		}
	}
}

// SetShortcuts makes these, and no others, be the short cuts of a network, in one
// transaction. Short cuts of an earlier process stay in force until its first call for
// their network. Where they cannot be had there are none, which is no error: frames
// pass the bridge, Status says so, and Mend tries again. What cannot be true changes
// nothing; after another error there are none. They end with the network; a link that
// goes away should lose its own before.
func (n *NFT) SetShortcuts(ctx context.Context, s Shortcuts) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	s, err := n.ledger.setShortcuts(s)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("set short cuts of network %s: %w", s.Network, err)
	}
	was, known := n.ledger.shortcuts[s.Network]
	n.ledger.book(s)
	switch {
	case s.Empty():
		err = n.dropShortcuts(n.ledger.networks[s.Network])
	case known && n.digests[s.table().String()] != "" && was.Tunnel == s.Tunnel:
		if err = n.changeShortcuts(was, s); err == nil {
			return nil
		}
		n.log.Warn("table is not as weft left it", "table", s.table(), "error", err)
		fallthrough
	default:
		err = n.installShortcuts(ctx, s)
	}
	if err != nil {
		return fmt.Errorf("set short cuts of network %s: %w", s.Network, err)
	}
	return nil
}

// changeShortcuts changes what differs.
func (n *NFT) changeShortcuts(was, s Shortcuts) error {
	have := map[setName][]raw{}
	for set, es := range was.elements() {
		for _, e := range es {
			have[set] = append(have[set], e.raws()...)
		}
	}
	t, stays := s.table(), map[Station]bool{}
	for _, x := range s.Common(was).Here {
		stays[x] = true
	}
	for _, x := range was.Here {
		if !stays[x] {
			n.tables.dropChain(t, x.Link.Name)
		}
	}
	for _, x := range s.Here {
		if !stays[x] {
			n.tables.addChain(t, x)
		}
	}
	if err := n.tables.apply(diff(t, have, s.elements()), t); err != nil {
		return err
	}
	if len(stays) != len(was.Here) || len(stays) != len(s.Here) {
		n.learn(t)
	}
	return nil
}

// installShortcuts replaces the whole table. A network whose short cuts cannot be had
// has none: what an older table says may no longer be true.
func (n *NFT) installShortcuts(ctx context.Context, s Shortcuts) error {
	err := n.install(ctx, s.table(), s.elements())
	if err == nil {
		delete(n.refused, s.Network)
		return nil
	}
	if ctx.Err() == nil && n.refused[s.Network] == nil {
		n.log.Warn("frames between containers pass the bridge: the kernel does not take the short way", "network", s.Network, "error", err)
	}
	_, dropErr := n.tables.drop(s.table())
	delete(n.digests, s.table().String())
	n.refused[s.Network] = err
	if errors.Is(err, ErrNoNFTables) {
		err = nil
	}
	return errors.Join(err, dropErr)
}

// dropShortcuts takes a network's short cuts away, whoever made them.
func (n *NFT) dropShortcuts(network Network) error {
	if network.Tunnel == "" {
		return nil
	}
	t := shortcutTable(network.Tunnel)
	delete(n.digests, t.String())
	delete(n.refused, network.ID)
	_, err := n.tables.drop(t)
	return err
}

// mendShortcuts compares the short cuts in the kernel with those in force. Those of a
// network for which this process has not set any stay as an earlier one left them.
func (n *NFT) mendShortcuts(ctx context.Context) ([]string, error) {
	there, err := n.tables.shortcuts()
	if err != nil {
		return nil, err
	}
	mine := map[string]bool{}
	for _, network := range n.ledger.networks {
		mine[shortcutTable(network.Tunnel).name] = true
	}
	left := slices.DeleteFunc(there, func(t table) bool { return mine[t.name] })
	var repaired []string
	dropped, err := n.tables.drop(left...)
	for _, t := range dropped {
		repaired = append(repaired, fmt.Sprintf("table %s: removed, no network has this tunnel", t))
	}
	errs := []error{err}
	for _, id := range slices.Sorted(maps.Keys(n.ledger.shortcuts)) {
		s := n.ledger.shortcuts[id]
		if n.refused[id] != nil {
			errs = append(errs, n.installShortcuts(ctx, s))
			continue
		}
		more, err := n.mendTable(ctx, s.table(), s.elements())
		if err != nil {
			err = n.installShortcuts(ctx, s)
		}
		repaired, errs = append(repaired, more...), append(errs, err)
	}
	return repaired, errors.Join(errs...)
}

// shortcutState is a sentence for the operator; empty if there is nothing to be had.
func (l *ledger) shortcutState(refused map[string]error) string {
	if len(l.shortcuts) == 0 {
		return ""
	}
	for _, id := range slices.Sorted(maps.Keys(refused)) {
		return fmt.Sprintf("frames between containers of %d networks pass the bridge: %v", len(refused), refused[id])
	}
	return fmt.Sprintf("frames between containers of %d networks do not pass the bridge", len(l.shortcuts))
}

// shortcuts returns the tables of short cuts that there are.
func (t *tables) shortcuts() ([]table, error) {
	all, err := t.conn.ListTablesOfFamily(nftables.TableFamilyNetdev)
	if err != nil {
		return nil, fmt.Errorf("listing nftables tables: %w", err)
	}
	var out []table
	for _, x := range all {
		if tunnel, ok := strings.CutPrefix(x.Name, shortcutPrefix); ok {
			out = append(out, shortcutTable(tunnel))
		}
	}
	return out, nil
}

// addChain adds a container's chain to the next transaction.
func (t *tables) addChain(of table, x Station) {
	accept := nftables.ChainPolicyAccept
	c := t.conn.AddChain(&nftables.Chain{
		Name: x.Link.Name, Table: of.kernel(), Type: nftables.ChainTypeFilter, Policy: &accept,
		Hooknum: nftables.ChainHookIngress, Priority: nftables.ChainPriorityFilter, Device: x.Link.Name,
	})
	const source, length = 6, 6 // of the source's address in the Ethernet header
	t.conn.AddRule(&nftables.Rule{Table: of.kernel(), Chain: c, Exprs: []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseLLHeader, Offset: source, Len: length},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: x.MAC[:]},
		&expr.Verdict{Kind: expr.VerdictGoto, Chain: "out"},
	}})
}

// dropChain adds to the next transaction that a chain goes. Before Linux 6.16 it has
// gone with its device: so that this is no failure, it is made before it is deleted.
func (t *tables) dropChain(of table, name string) {
	c := t.conn.AddChain(&nftables.Chain{Name: name, Table: of.kernel()})
	t.conn.DelChain(c)
}

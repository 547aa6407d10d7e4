package kernel

import (
	"fmt"
	"net"
	"net/netip"
)

// MAC is an Ethernet address that can be compared and be a map's key. The zero
// value is the all-zeros address, under which a VXLAN device keeps the hosts
// that get every frame without an entry of its own.
type MAC [6]byte

// ToMAC converts an address of six bytes; any other length is ErrInvalid.
func ToMAC(a net.HardwareAddr) (MAC, error) {
	if len(a) != len(MAC{}) {
		return MAC{}, fmt.Errorf("hardware address %q %w: use six bytes", a.String(), ErrInvalid)
	}
	return MAC(a), nil
}

// String is the address as six pairs of hex digits.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// several says whether a VXLAN device keeps more than one destination for it:
// the all-zeros address and groups.
func (m MAC) several() bool { return m == MAC{} || m[0]&1 == 1 }

// FDBEntry says where frames to an Ethernet address go. Every entry is static:
// it never ages, and traffic does not change it, except that a container's
// first frame from another port of the bridge moves an entry of the bridge.
type FDBEntry struct {
	// Link is the name of the VXLAN device; an entry of the bridge may name any port.
	Link string
	// MAC is the destination of the frame.
	MAC MAC
	// Dst is the host's address on the underlay: an entry of the VXLAN device
	// itself ("self"). The zero Addr is an entry of the bridge ("master"): the
	// address is behind the port Link.
	Dst netip.Addr
}

// String is the entry in bridge(8)'s words.
func (e FDBEntry) String() string {
	if e.Dst.IsValid() {
		return fmt.Sprintf("fdb %s dev %s dst %s", e.MAC, e.Link, e.Dst)
	}
	return fmt.Sprintf("fdb %s dev %s master", e.MAC, e.Link)
}

// Neighbor says which Ethernet address an IP address has. It is permanent: the
// kernel neither asks for it nor lets it expire.
type Neighbor struct {
	// Link is the name of the bridge.
	Link string
	// IP is the neighbour's address.
	IP netip.Addr
	// MAC is its Ethernet address.
	MAC MAC
}

// String is the neighbour in ip(8)'s words.
func (n Neighbor) String() string {
	return fmt.Sprintf("neigh %s dev %s lladdr %s", n.IP, n.Link, n.MAC)
}

// Forwarding is a set of entries, in no order.
type Forwarding struct {
	FDB       []FDBEntry
	Neighbors []Neighbor
}

// places is what the entries are for.
func (f Forwarding) places() map[place]bool {
	out := make(map[place]bool, len(f.FDB)+len(f.Neighbors))
	for _, e := range f.FDB {
		out[e.place()] = true
	}
	for _, n := range f.Neighbors {
		out[n.place()] = true
	}
	return out
}

// ForwardingChanges is what [Host.ApplyForwarding] does: first Add, then
// Delete, so that an entry that moves is never missing in between.
type ForwardingChanges struct{ Add, Delete Forwarding }

// Len counts the entries to add and to delete.
func (c ForwardingChanges) Len() int {
	return len(c.Add.FDB) + len(c.Add.Neighbors) + len(c.Delete.FDB) + len(c.Delete.Neighbors)
}

// place is what the kernel keeps one entry for: adding an entry of the same
// place replaces the one that is there.
type place struct {
	link string
	mac  MAC
	dst  netip.Addr // of an FDB entry with several destinations; of a neighbour its IP
	kind byte
}

func (e FDBEntry) place() place {
	switch {
	case !e.Dst.IsValid():
		return place{link: e.Link, mac: e.MAC, kind: 'm'}
	case e.MAC.several():
		return place{link: e.Link, mac: e.MAC, dst: e.Dst, kind: 's'}
	}
	return place{link: e.Link, mac: e.MAC, kind: 's'}
}

func (n Neighbor) place() place { return place{link: n.Link, dst: n.IP, kind: 'n'} }

// DiffForwarding says what makes a table that holds have hold want. Entries
// that stay are not named, and one that is replaced is only added, because the
// kernel replaces it in one step. Of two wanted entries for one place (a unicast
// address with two hosts, an IP address with two MACs) the last counts. Entries
// come in the order of their arguments; each is named once.
//
// One event is a diff too: want is the new record of an endpoint, have the old.
func DiffForwarding(want, have Forwarding) ForwardingChanges {
	var c ForwardingChanges
	c.Add.FDB, c.Delete.FDB = diff(want.FDB, have.FDB, FDBEntry.place)
	c.Add.Neighbors, c.Delete.Neighbors = diff(want.Neighbors, have.Neighbors, Neighbor.place)
	return c
}

func diff[E comparable](want, have []E, at func(E) place) (add, del []E) {
	wanted := make(map[place]E, len(want))
	for _, e := range want {
		wanted[at(e)] = e
	}
	present := make(map[place]E, len(have))
	for _, e := range have {
		p := at(e)
		if _, twice := present[p]; twice {
			continue
		}
		present[p] = e
		if _, stays := wanted[p]; !stays {
			del = append(del, e)
		}
	}
	for _, e := range want {
		p := at(e)
		w, left := wanted[p]
		if !left || w != e {
			continue // named already, or a later entry counts
		}
		delete(wanted, p)
		if h, there := present[p]; !there || h != e {
			add = append(add, e)
		}
	}
	return add, del
}

// check finds entries that no kernel would take.
func (e FDBEntry) check() error {
	switch {
	case !e.Dst.IsValid() && e.MAC.several():
		return fmt.Errorf("%s: address %w: an entry of the bridge is for one station", e, ErrInvalid)
	case e.Dst.IsValid() && (e.Dst.IsUnspecified() || e.Dst.IsMulticast() || e.Dst.Zone() != ""):
		return fmt.Errorf("%s: destination %w: use a host's unicast address", e, ErrInvalid)
	}
	return nil
}

func (n Neighbor) check() error {
	if !n.IP.IsValid() || n.IP.IsUnspecified() || n.IP.IsMulticast() || n.MAC.several() {
		return fmt.Errorf("%s %w: a neighbour has a unicast IP and a unicast Ethernet address", n, ErrInvalid)
	}
	return nil
}

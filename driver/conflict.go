package driver

import (
	"maps"
	"net/netip"
	"slices"
)

// A Conflict is an address of an endpoint on this host that belongs to another host by
// now.
type Conflict struct {
	// Network is the engine's id.
	Network string
	Address netip.Addr
}

// SetConflicts replaces the list of addresses that belong to other hosts. An endpoint
// that has one is taken off the network, and comes back when the list has none of its
// addresses any more. SetConflicts wakes [Driver.Run], which does that, and waits for
// nothing.
func (d *Driver) SetConflicts(list []Conflict) {
	next := make(map[Conflict]bool, len(list))
	for _, c := range list {
		next[c] = true
	}
	d.mu.Lock()
	same := maps.Equal(d.conflicts, next)
	d.conflicts = next
	d.mu.Unlock()
	if !same {
		d.poke()
	}
}

// poke lets Run look at the links soon.
func (d *Driver) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// isOff reports whether an endpoint has to be off the network. The caller holds mu.
func (d *Driver) isOff(ep Endpoint) bool {
	return len(d.conflicts) > 0 && slices.ContainsFunc(ep.Addrs(), func(p netip.Prefix) bool {
		return d.conflicts[Conflict{ep.Network, p.Addr()}]
	})
}

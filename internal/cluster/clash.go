package cluster

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// A Clash is an underlay address that is not one host's alone: what is sent to it
// arrives at one of those that have it, whichever was meant.
type Clash struct {
	Address netip.Addr
	// Hosts advertise it, by name; at least one.
	Hosts []HostView
	// Device of this host has the address, though only others advertise it; empty if
	// none has, or this host is one of Hosts.
	Device string
	// names are what people call Hosts, here this host.
	names []string
	here  string
}

// String says who has the address and what to do about it.
func (c Clash) String() string {
	who := strings.Join(c.names, " and ")
	if c.Device == "" {
		return fmt.Sprintf("hosts %s advertise one address, %s: give each an address of its own (WEFT_ADVERTISE), or take away those that are gone (weft host rm)", who, c.Address)
	}
	verb := "advertises"
	if len(c.names) > 1 {
		verb = "advertise"
	}
	return fmt.Sprintf("%s, which %s %s, is an address of this host (%s, device %s) as well: nothing is sent there from here: give %s an address that no other host has (WEFT_ADVERTISE)",
		c.Address, who, verb, c.here, c.Device, who)
}

// Clashes finds the addresses that hosts of the cluster have in common, and those that
// other hosts advertise and this one has on a link; local names the device of each
// address of this host. Removed hosts count for nothing, those that are off do: their
// address may be that of their successor.
func Clashes(hosts []HostView, local map[netip.Addr]string) []Clash {
	by := make(map[netip.Addr][]HostView)
	called := make(map[string]int)
	here := "this host"
	for _, h := range hosts {
		if h.Removed {
			continue
		}
		called[h.Name]++
		if h.Me {
			here = cmp.Or(h.Name, here)
		}
		if h.Address.IsValid() {
			by[h.Address.Unmap()] = append(by[h.Address.Unmap()], h)
		}
	}
	var out []Clash
	for _, a := range slices.SortedFunc(maps.Keys(by), netip.Addr.Compare) {
		c := Clash{Address: a, Hosts: by[a], here: here}
		if !slices.ContainsFunc(c.Hosts, func(h HostView) bool { return h.Me }) {
			c.Device = local[a]
		}
		if len(c.Hosts) < 2 && c.Device == "" {
			continue
		}
		for _, h := range c.Hosts {
			name := h.Name
			if name == "" || called[name] > 1 {
				name = strings.TrimSpace(fmt.Sprintf("%s (id %s)", name, h.ID))
			}
			c.names = append(c.names, name)
		}
		out = append(out, c)
	}
	return out
}

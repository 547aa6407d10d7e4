package cluster

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// A Clash is an underlay address that is not one host's alone, so that what is sent to it
// arrives at one of those that have it, whichever was meant; or one that no tunnel between
// this host and another can lead to.
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
	// text is all there is to say of what is not about one address of two.
	text string
}

// String says who has the address and what to do about it.
func (c Clash) String() string {
	if c.text != "" {
		return c.text
	}
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
// other hosts advertise and this one has on a link; and what else keeps tunnels from leading
// anywhere. local has the addresses of this host, with the device of those that others
// advertise. Removed hosts count for nothing, those that are off do: their
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
	return append(out, misfits(hosts, local)...)
}

// misfits are settings of hosts with which no tunnel leads from this host to another one.
func misfits(hosts []HostView, local map[netip.Addr]string) []Clash {
	i := slices.IndexFunc(hosts, func(h HostView) bool { return h.Me && h.Address.IsValid() })
	if i < 0 {
		return nil
	}
	me := hosts[i]
	var out []Clash
	if _, has := local[me.Address.Unmap()]; !has && len(local) > 0 {
		out = append(out, Clash{Address: me.Address, Hosts: []HostView{me}, text: fmt.Sprintf(
			"this host advertises %s, which is no address of it: nothing arrives from other hosts: set WEFT_ADVERTISE to one that it has, or to the device", me.Address)})
	}
	for _, h := range hosts {
		if h.Me || h.Removed || !h.Address.IsValid() {
			continue
		}
		if h.Address.Unmap().Is4() != me.Address.Unmap().Is4() {
			out = append(out, Clash{Address: h.Address, Hosts: []HostView{h}, text: fmt.Sprintf(
				"host %s is reached at %s, and this host at %s: no tunnel leads from IPv4 to IPv6: let all hosts advertise addresses of one family (WEFT_ADVERTISE)", h.Name, h.Address, me.Address)})
		}
		if h.Port != 0 && me.Port != 0 && h.Port != me.Port {
			out = append(out, Clash{Address: h.Address, Hosts: []HostView{h}, text: fmt.Sprintf(
				"host %s has its tunnels at UDP port %d, and this host at %d: nothing arrives: set WEFT_VXLAN_PORT alike on all hosts", h.Name, h.Port, me.Port)})
		}
	}
	return out
}

package firewall

import (
	"maps"
	"net/netip"
	"slices"
)

// elements returns what each set must hold when the facts are true. It is the
// whole of the firewall's logic that is not in the skeleton. Without a network
// there is no table, so nothing.
func elements(f Facts) map[setName][]element {
	out := map[setName][]element{}
	if len(f.Networks) == 0 {
		return out
	}
	seen := map[element]bool{}
	add := func(es []element) {
		for _, e := range es {
			if !seen[e] {
				seen[e] = true
				out[e.set] = append(out[e.set], e)
			}
		}
	}
	for _, n := range f.Networks {
		add(networkElements(n))
	}
	for _, p := range f.Ports {
		add(portElements(p))
	}
	for _, o := range f.Open {
		add(openElements(o))
	}
	for _, u := range f.Uplinks {
		add(uplinkElements(u))
	}
	return out
}

func networkElements(n Network) []element {
	bridge := ifname(n.Bridge)
	icc := "goto ok"
	if !n.ICC {
		icc = "goto same_noicc"
	}
	es := []element{
		member("bridges", bridge),
		member("local", bridge, bridge).verdict(icc),
	}
	if n.Internal {
		es = append(es, member("internal", bridge))
	}
	for _, t := range slices.Compact(slices.Sorted(slices.Values(n.Trusted))) {
		es = append(es, member("trusted", ifname(t), bridge))
	}
	es = append(es, familyElements(n, bridge, false)...)
	es = append(es, familyElements(n, bridge, true)...)
	return append(es, tunnelElements(n)...)
}

// tunnelElements are what a network with a tunnel needs beyond those of a bridge.
func tunnelElements(n Network) []element {
	if n.Tunnel == "" {
		return nil
	}
	var es []element
	for _, g := range slices.Compact(slices.SortedFunc(slices.Values(n.Gateways), netip.Addr.Compare)) {
		es = append(es, member(setName("gw").of(g.Is6()), ifname(n.Tunnel), address(g)))
		if g.Is6() {
			es = append(es, member("nd6", ifname(n.Tunnel), number(g)))
		}
	}
	return es
}

func familyElements(n Network, bridge field, v6 bool) []element {
	families := n.family(v6)
	if len(families) == 0 {
		return nil
	}
	es := []element{member(setName("into").of(v6), bridge).verdict(families[0].Mode.verdict())}
	for _, f := range families {
		es = append(es, member(setName("hair").of(v6), bridge, subnet(f.Subnet)))
		if !n.masquerades(f) {
			continue
		}
		es = append(es, member(setName("masq").of(v6), subnet(f.Subnet)))
		if f.SNAT.IsValid() {
			es = append(es, member(setName("snat").of(v6), subnet(f.Subnet)).to(address(f.SNAT)))
		}
	}
	return es
}

// verdict returns what happens to packets that enter a bridge in this mode.
func (m Mode) verdict() string {
	switch m {
	case ModeNAT:
		return "goto into_nat"
	case ModeNATUnprotected:
		return "goto ok"
	case ModeRouted:
		return "goto into_routed"
	}
	return "drop"
}

func portElements(p Port) []element {
	v6 := p.Host.Addr().Is6()
	key := []field{proto(p.Proto), port(p.Host.Port())}
	set := setName("any").of(v6)
	if !p.Host.Addr().IsUnspecified() {
		set = setName("ports").of(v6)
		key = append([]field{address(p.Host.Addr().WithZone(""))}, key...)
	}
	return []element{member(set, key...).to(address(p.Container.Addr()), port(p.Container.Port()))}
}

func openElements(o Open) []element {
	set := setName("open").of(o.Container.Addr().Is6())
	return []element{member(set, address(o.Container.Addr()), proto(o.Proto), port(o.Container.Port()))}
}

func uplinkElements(name string) []element {
	return []element{member("uplinks", ifname(name))}
}

// A change is what one transaction does to the elements of the table.
type change struct{ remove, add map[setName][]raw }

func (c change) empty() bool { return len(c.remove) == 0 && len(c.add) == 0 }

// sets returns the names of the sets that change, sorted.
func (c change) sets() []setName {
	touched := maps.Clone(c.remove)
	if touched == nil {
		touched = map[setName][]raw{}
	}
	maps.Copy(touched, c.add)
	return slices.Sorted(maps.Keys(touched))
}

// of returns what the change does to one table.
func (c change) of(t table) change {
	other := func(set setName, _ []raw) bool { return !t.has(set) }
	out := change{remove: maps.Clone(c.remove), add: maps.Clone(c.add)}
	maps.DeleteFunc(out.remove, other)
	maps.DeleteFunc(out.add, other)
	return out
}

// diff returns the change that makes want of have in the sets of one table.
func diff(t table, have map[setName][]raw, want map[setName][]element) change {
	c := change{remove: map[setName][]raw{}, add: map[setName][]raw{}}
	for _, set := range t.sets {
		missing := map[raw]bool{}
		for _, e := range want[set] {
			for _, r := range e.raws() {
				missing[r] = true
			}
		}
		for _, r := range have[set] {
			if !missing[r] {
				c.remove[set] = append(c.remove[set], r)
			}
			delete(missing, r)
		}
		for _, e := range want[set] {
			for _, r := range e.raws() {
				if missing[r] {
					delete(missing, r)
					c.add[set] = append(c.add[set], r)
				}
			}
		}
	}
	return c
}

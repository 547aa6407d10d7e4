package firewall

import (
	"net/netip"
	"slices"
)

// network returns the description of a network with the usual options; an empty
// subnet means no such family.
func network(id, bridge, v4, v6 string) Network {
	n := Network{ID: id, Bridge: bridge, ICC: true, Masquerade: true}
	if v4 != "" {
		n.IPv4 = []Family{{Subnet: netip.MustParsePrefix(v4)}}
	}
	if v6 != "" {
		n.IPv6 = []Family{{Subnet: netip.MustParsePrefix(v6)}}
	}
	return n
}

// tunnelled returns the network with a VXLAN device, and the first address of each
// subnet as gateway.
func tunnelled(n Network) Network {
	n.Tunnel = "vx-" + n.Bridge
	for _, f := range slices.Concat(n.IPv4, n.IPv6) {
		n.Gateways = append(n.Gateways, f.Subnet.Masked().Addr().Next())
	}
	return n
}

package overlay

import (
	"net"
	"net/netip"

	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/ownership"
)

// place says where a network's entries go on this host.
type place struct {
	bridge, vxlan string
	// local is this host's underlay address: hosts of the other family are out of reach.
	local netip.Addr
	// own are the addresses of this host's links.
	own map[netip.Addr]bool
}

// forwarding is what a host programs for the endpoints of a network, which come in
// ascending order of their records: of two that name one address the later counts, but
// an address that this host's own endpoints have is theirs. Hosts without an address
// of the underlay's family, or with one of this host's own, are left out.
func forwarding(at place, me ownership.Host, eps []directory.Endpoint) kernel.Forwarding {
	var out kernel.Forwarding
	mine := make(map[netip.Addr]bool)
	own := make(map[string]bool)
	for _, e := range eps {
		if e.Host == me {
			own[e.MAC] = true
			for _, a := range e.Addrs {
				mine[a] = true
			}
		}
	}
	flooded := make(map[netip.Addr]bool)
	for _, e := range eps {
		hw, err := net.ParseMAC(e.MAC)
		if err != nil {
			continue
		}
		mac, err := kernel.ToMAC(hw)
		if err != nil {
			continue
		}
		if e.Host == me && !e.Own {
			// They answer themselves, but what is known is not asked through the tunnel.
			for _, a := range e.Addrs {
				out.Neighbors = append(out.Neighbors, kernel.Neighbor{Link: at.bridge, IP: a, MAC: mac})
			}
		}
		if e.Host == me || !at.reaches(e.VTEP) {
			continue
		}
		if !flooded[e.VTEP] {
			flooded[e.VTEP] = true
			out.FDB = append(out.FDB, kernel.FDBEntry{Link: at.vxlan, Dst: e.VTEP})
		}
		if !own[e.MAC] {
			out.FDB = append(out.FDB,
				kernel.FDBEntry{Link: at.vxlan, MAC: mac, Dst: e.VTEP},
				kernel.FDBEntry{Link: at.vxlan, MAC: mac})
		}
		for _, a := range e.Addrs {
			if !mine[a] {
				out.Neighbors = append(out.Neighbors, kernel.Neighbor{Link: at.bridge, IP: a, MAC: mac})
			}
		}
	}
	return out
}

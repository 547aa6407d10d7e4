package overlay

import (
	"net"
	"net/netip"

	"github.com/weft-net/weft/driver/bridged"
	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/firewall"
	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/ownership"
)

// place says where a network's entries go on this host.
type place struct {
	bridge, vxlan string
	// links are the indexes of the bridge's ports, by name.
	links map[string]int
	// running are those of them that forward frames.
	running map[string]bool
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
	own := make(map[string]int) // how many have an address
	for _, e := range eps {
		if e.Host == me {
			own[e.MAC]++
			for _, a := range e.Addrs {
				mine[a] = true
			}
		}
	}
	flooded := make(map[netip.Addr]bool)
	for _, e := range eps {
		mac, ok := parseMAC(e.MAC)
		if !ok {
			continue
		}
		if e.Host == me && !e.Own {
			// They answer themselves, but what is known is not asked through the tunnel.
			for _, a := range e.Addrs {
				out.Neighbors = append(out.Neighbors, kernel.Neighbor{Link: at.bridge, IP: a, MAC: mac})
			}
			// A bridge that no longer sees their frames must not forget where they are.
			if link := bridged.HostLink(e.ID); at.links[link] != 0 && own[e.MAC] == 1 {
				out.FDB = append(out.FDB, kernel.FDBEntry{Link: link, MAC: mac})
			}
		}
		if e.Host == me || !at.reaches(e.VTEP) {
			continue
		}
		if !flooded[e.VTEP] {
			flooded[e.VTEP] = true
			out.FDB = append(out.FDB, kernel.FDBEntry{Link: at.vxlan, Dst: e.VTEP})
		}
		if own[e.MAC] == 0 {
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

func parseMAC(text string) (mac kernel.MAC, ok bool) {
	hw, err := net.ParseMAC(text)
	if err != nil {
		return mac, false
	}
	mac, err = kernel.ToMAC(hw)
	return mac, err == nil
}

// shortcuts are the containers of a network between which frames need not pass the
// bridge. Hosts' own addresses are not among them, and neither is a MAC address that is
// in several places: there the bridge decides. A container here has to wait until its
// port forwards: the short way would bring it frames before, and what it then asks by ARP
// or neighbour discovery, which is the bridge's business, would be lost for a second.
func shortcuts(network string, at place, me ownership.Host, eps []directory.Endpoint) firewall.Shortcuts {
	out := firewall.Shortcuts{Network: network, Tunnel: firewall.Device{Name: at.vxlan, Index: at.links[at.vxlan]}}
	if out.Tunnel.Index == 0 {
		return out
	}
	here := make(map[kernel.MAC]int)
	host := make(map[kernel.MAC]bool)
	for _, e := range eps {
		mac, _ := parseMAC(e.MAC)
		if e.Host == me {
			here[mac]++
		}
		host[mac] = host[mac] || e.Own
	}
	there := make(map[kernel.MAC]bool)
	for _, e := range eps {
		mac, ok := parseMAC(e.MAC)
		link := bridged.HostLink(e.ID)
		switch {
		case !ok || host[mac]:
		case e.Host != me:
			if at.reaches(e.VTEP) && here[mac] == 0 && !there[mac] {
				there[mac] = true
				out.There = append(out.There, firewall.MAC(mac))
			}
		case here[mac] == 1 && at.running[link]:
			out.Here = append(out.Here, firewall.Station{MAC: firewall.MAC(mac), Link: firewall.Device{Name: link, Index: at.links[link]}})
		}
	}
	return out
}

// waiting are the links of containers here whose ports do not forward yet.
func waiting(at place, me ownership.Host, eps []directory.Endpoint) []string {
	var out []string
	for _, e := range eps {
		if link := bridged.HostLink(e.ID); e.Host == me && at.links[link] != 0 && !at.running[link] {
			out = append(out, link)
		}
	}
	return out
}

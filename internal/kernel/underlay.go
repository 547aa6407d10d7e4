package kernel

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Path is how this host reaches an address.
type Path struct {
	// Source is the address that it would send from.
	Source netip.Addr
	// Gateway is the next hop; the zero Addr when the address is on the link.
	Gateway netip.Addr
	// Link is the name of the device.
	Link string
	// MTU in bytes is the smallest of what the device, the route, and what the
	// path reported (for ten minutes, RFC 1191) allow.
	MTU int
}

// RouteTo returns the way to an address as the kernel would choose it now, or
// ErrNotFound when there is none. The way to one of this host's own addresses
// leads over the loopback device.
func (h *Host) RouteTo(to netip.Addr) (Path, error) {
	to = to.Unmap()
	if !to.IsValid() || to.IsUnspecified() {
		return Path{}, fmt.Errorf("route to %s: address %w: use another host's", to, ErrInvalid)
	}
	routes, err := h.nl.RouteGet(net.IP(to.AsSlice()))
	if err != nil {
		return Path{}, fmt.Errorf("route to %s: %w", to, noRoute(err))
	}
	if len(routes) == 0 {
		return Path{}, fmt.Errorf("route to %s: %w", to, ErrNotFound)
	}
	r := routes[0]
	link, err := h.nl.LinkByIndex(r.LinkIndex)
	if err != nil {
		return Path{}, fmt.Errorf("route to %s: device %d: %w", to, r.LinkIndex, vocabulary(err))
	}
	return toPath(r, link), nil
}

func toPath(r netlink.Route, link netlink.Link) Path {
	p := Path{Link: link.Attrs().Name, MTU: link.Attrs().MTU}
	if src, ok := netip.AddrFromSlice(r.Src); ok {
		p.Source = src.Unmap()
	}
	p.Gateway = nextHop(r.Gw, r.Via)
	if r.MTU > 0 {
		p.MTU = min(p.MTU, r.MTU)
	}
	return p
}

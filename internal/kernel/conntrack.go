package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ForgetFlows deletes the conntrack entries that match any of the flows, by
// one pass over the table per address family. Established connections of those
// flows are cut off from their translation, so that a port that changes hands
// changes at once.
func (h *Host) ForgetFlows(flows []Flow) error {
	var errs []error
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		var filters []netlink.CustomConntrackFilter
		for _, f := range flows {
			if f.family() == 0 || f.family() == int(family) {
				filters = append(filters, f)
			}
		}
		if len(filters) == 0 {
			continue
		}
		_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, filters...)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("delete conntrack entries: %w", err))
		}
	}
	return errors.Join(errs...)
}

// family is the flow's address family, or 0 when it names no address.
func (f Flow) family() int {
	for _, a := range []netip.Addr{f.Reply, f.Dst.Addr()} {
		switch {
		case a.Is4():
			return unix.AF_INET
		case a.Is6():
			return unix.AF_INET6
		}
	}
	return 0
}

// MatchConntrackFlow says whether an entry is of this flow.
func (f Flow) MatchConntrackFlow(e *netlink.ConntrackFlow) bool {
	if f.Proto != 0 && f.Proto != e.Forward.Protocol {
		return false
	}
	if f.Dst.Port() != 0 && f.Dst.Port() != e.Forward.DstPort {
		return false
	}
	if a := f.Dst.Addr(); a.IsValid() && !a.IsUnspecified() && !same(a, e.Forward.DstIP) {
		return false
	}
	if f.Reply.IsValid() && !same(f.Reply, e.Reverse.SrcIP) {
		return false
	}
	return true
}

func same(a netip.Addr, ip net.IP) bool {
	b, ok := netip.AddrFromSlice(ip)
	return ok && a == b.Unmap()
}

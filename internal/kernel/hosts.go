package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
)

// Hosts are addresses that one station of the line has, for one that cannot ask for them.
type Hosts struct {
	MAC   MAC
	Addrs []netip.Addr
}

// EnsureHosts tells the child of that alias in a sandbox who has these addresses, and
// that their owner has no others. A sandbox without that child, or where it is not up
// yet, is [ErrNotFound].
func (h *Host) EnsureHosts(sandbox, alias string, hosts Hosts) error {
	return h.withChild(sandbox, alias, func(nl *netlink.Handle, link netlink.Link) error {
		if link.Attrs().Flags&net.FlagUp == 0 {
			return fmt.Errorf("device %q is down: %w as one that is in use", alias, ErrNotFound)
		}
		return tellHosts(nl, link, hosts)
	})
}

// tellHosts changes only what differs.
func tellHosts(nl *netlink.Handle, link netlink.Link, hosts Hosts) error {
	if hosts.MAC == (MAC{}) {
		return nil
	}
	a := link.Attrs()
	list, err := dump(func() ([]netlink.Neigh, error) { return nl.NeighList(a.Index, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	have := map[netip.Addr]bool{}
	for _, n := range list {
		ip, ok := netip.AddrFromSlice(n.IP)
		if !ok || n.State != netlink.NUD_PERMANENT || len(n.HardwareAddr) != len(MAC{}) || MAC(n.HardwareAddr) != hosts.MAC {
			continue
		}
		have[ip] = true
		if !slices.Contains(hosts.Addrs, ip) {
			if err := nl.NeighDel(&n); err != nil && !errors.Is(err, syscall.ENOENT) {
				return fmt.Errorf("%s: forget neighbour %s: %w", a.Name, ip, err)
			}
		}
	}
	for _, ip := range hosts.Addrs {
		if have[ip] {
			continue
		}
		err := nl.NeighSet(&netlink.Neigh{LinkIndex: a.Index, Family: family(ip), State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: hosts.MAC[:]})
		if err != nil {
			return fmt.Errorf("%s: add neighbour %s: %w", a.Name, ip, vocabulary(err))
		}
	}
	return nil
}

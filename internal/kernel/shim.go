package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol marks the routes that weft adds to the host's table (`ip route show proto
// 119`).
const routeProtocol netlink.RouteProtocol = 0x77

// Shim is the fact that the host itself is on the line of a parent: a child that stays in
// this namespace, for the parent itself reaches no child. Nobody on the line hears of it.
// It asks and answers for no address and is in no multicast group, so both sides have to
// be told who has what: the host by Peers, the others by [Host.EnsureHosts].
type Shim struct {
	Child
	// Addrs are the addresses that the host has by it.
	Addrs []netip.Addr
	// IPv6 says whether IPv6 runs on it at all.
	IPv6 bool
	// Forwards lets the host route IPv4 that comes by it, if it routes at all. There is
	// nothing like it for IPv6.
	Forwards bool
	// Peers are whom the host reaches by it.
	Peers []Peer
}

// Peer is another child of a shim's parent.
type Peer struct {
	// Addr is its address, MAC its Ethernet address; the zero MAC is the parent's, which
	// all of an ipvlan parent's children have.
	Addr netip.Addr
	MAC  MAC
	// Source is the address of the host's from which it is reached.
	Source netip.Addr
}

// String is the peer as a route in ip(8)'s words.
func (p Peer) String() string { return fmt.Sprintf("%s lladdr %s src %s", p.Addr, p.MAC, p.Source) }

// EnsureShim makes the shim exist, be up, and have these addresses and peers and no
// others. A device of weft's of that name that is another one is made anew. That the parent
// is gone is [ErrNotFound]; that another device has the name, or the route to a peer, is
// [ErrExists], and all other peers are added nevertheless.
func (h *Host) EnsureShim(s Shim) error {
	link, err := h.readyShim(s)
	if err != nil {
		return err
	}
	have, _, err := h.peers(s.Name, link.Attrs().Index)
	if err != nil {
		return err
	}
	var gone []netip.Addr
	for _, p := range have {
		if !slices.ContainsFunc(s.Peers, func(w Peer) bool { return w.Addr == p.Addr }) {
			gone = append(gone, p.Addr)
		}
	}
	errs := []error{h.RemovePeers(s.Name, gone)}
	for _, p := range s.Peers {
		if !slices.Contains(have, p) {
			errs = append(errs, h.addPeer(link, p))
		}
	}
	return errors.Join(errs...)
}

// AddPeers is [Host.EnsureShim] that leaves other peers alone, whatever they are.
func (h *Host) AddPeers(s Shim) error {
	link, err := h.readyShim(s)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range s.Peers {
		errs = append(errs, h.addPeer(link, p))
	}
	return errors.Join(errs...)
}

// readyShim makes the shim be as it should but for its peers.
func (h *Host) readyShim(s Shim) (netlink.Link, error) {
	link, err := h.shimLink(s)
	if err != nil {
		return nil, err
	}
	if err := h.quiet(link, s); err != nil {
		return nil, fmt.Errorf("%s: %w", s.Name, err)
	}
	if err := h.setUp(link); err != nil {
		return nil, err
	}
	// An ipvlan device begins to ask when it comes up.
	if link, err = h.nl.LinkByName(s.Name); err == nil {
		err = h.mute(link)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Name, vocabulary(err))
	}
	if err := h.exactAddrs(link, s.Addrs); err != nil || !s.IPv6 {
		return link, err
	}
	return link, h.dropMulticastRoute(link)
}

// multicast is the route of IPv6 multicast that each device gets in the table local when it
// comes up, and with each address.
const multicast = "ff00::/8"

// dropMulticastRoute keeps the host's multicast off the shim. Of equal routes the oldest
// counts, and the parent's is new when its cable was out.
func (h *Host) dropMulticastRoute(link netlink.Link) error {
	err := h.nl.RouteDel(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: prefixNet(netip.MustParsePrefix(multicast)), Table: unix.RT_TABLE_LOCAL})
	if err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("%s: remove the route of multicast: %w", link.Attrs().Name, err)
	}
	return nil
}

// shimLink returns the device, made if need be.
func (h *Host) shimLink(s Shim) (netlink.Link, error) {
	parent, err := h.nl.LinkByName(s.Parent)
	if err != nil {
		return nil, fmt.Errorf("%s %s: parent %s: %w", s.Kind, s.Name, s.Parent, vocabulary(err))
	}
	link, err := h.nl.LinkByName(s.Name)
	if err == nil && !isShim(link, s, parent.Attrs().Index) {
		if g := link.Attrs().Group; g != Group && g != DoomedGroup {
			return nil, fmt.Errorf("%s %s: another device of that name %w", s.Kind, s.Name, ErrExists)
		}
		if err := h.DeleteLink(s.Name); err != nil {
			return nil, err
		}
		_, err = h.nl.LinkByName(s.Name)
	}
	if errors.Is(vocabulary(err), ErrNotFound) {
		if err := h.createChild(s.Child, -1); err != nil {
			return nil, err
		}
		if err := h.setAlias(s.Child); err != nil {
			return nil, err
		}
		link, err = h.nl.LinkByName(s.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Name, vocabulary(err))
	}
	return link, nil
}

// isShim says whether a device can become the shim without being made anew.
func isShim(l netlink.Link, s Shim, parent int) bool {
	a := l.Attrs()
	if m, ok := l.(*netlink.Macvlan); ok && m.Mode != macvlanMode(s.Mode) {
		return false
	}
	return l.Type() == string(s.Kind) && a.ParentIndex == parent && a.Group == Group && (s.MAC == nil || a.HardwareAddr.String() == s.MAC.String())
}

// quiet keeps a device from being heard on the line, and from hearing what is not for it,
// before it is up. A host that forwards IPv6 has it in the group of all routers from the
// start: it leaves that while it is let leave groups at all, and by the first version of
// MLD, which tells nobody.
func (h *Host) quiet(link netlink.Link, s Shim) error {
	v4, v6 := "net/ipv4/conf/"+s.Name+"/", "net/ipv6/conf/"+s.Name+"/"
	forwarding := "0"
	if s.Forwards {
		var err error
		if forwarding, err = h.Sysctl("net/ipv4/conf/all/forwarding"); err != nil {
			return err
		}
	}
	// With rp_filter only its peers are heard by it, of IPv4 and where that of "all" is not
	// 2. Else any child of the parent is that knows its MAC address.
	settings := []Sysctl{{v4 + "rp_filter", "1"}, {v4 + "forwarding", forwarding}}
	if !s.IPv6 {
		settings = append(settings, Sysctl{v6 + "disable_ipv6", "1"})
	} else {
		settings = append(settings, Sysctl{v6 + "addr_gen_mode", "1"}, Sysctl{v6 + "accept_ra", "0"},
			Sysctl{v6 + "force_mld_version", "1"}, Sysctl{v6 + "forwarding", "0"}, Sysctl{v6 + "disable_ipv6", "0"})
	}
	for _, set := range settings {
		if _, err := h.proc.ensure(set); err != nil && (s.IPv6 || !errors.Is(err, ErrNotFound)) { // a kernel without IPv6 has no such file
			return err
		}
	}
	return h.mute(link)
}

// mute takes a device what it could ask and answer by.
func (h *Host) mute(link netlink.Link) error {
	a := link.Attrs()
	if a.RawFlags&unix.IFF_NOARP == 0 {
		if err := h.nl.LinkSetARPOff(link); err != nil {
			return fmt.Errorf("switch ARP off: %w", err)
		}
	}
	if a.RawFlags&unix.IFF_MULTICAST != 0 {
		if err := h.nl.LinkSetMulticastOff(link); err != nil {
			return fmt.Errorf("switch multicast off: %w", err)
		}
	}
	return nil
}

// exactAddrs makes a shim have these addresses alone, which bring no route.
func (h *Host) exactAddrs(link netlink.Link, want []netip.Addr) error {
	name := link.Attrs().Name
	have, err := h.shimAddrs(link)
	if err != nil {
		return err
	}
	for _, a := range have {
		if !slices.Contains(want, a) {
			if err := h.RemoveAddrs(name, []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}); err != nil {
				return err
			}
		}
	}
	for _, a := range want {
		if slices.Contains(have, a) {
			continue
		}
		add := ipNet(netip.PrefixFrom(a, a.BitLen()))
		add.Flags = unix.IFA_F_NOPREFIXROUTE
		if a.Is6() {
			add.Flags |= unix.IFA_F_NODAD
		}
		if err := h.nl.AddrAdd(link, add); err != nil && !errors.Is(err, syscall.EEXIST) {
			return fmt.Errorf("%s: add address %s: %w", name, a, vocabulary(err))
		}
	}
	return nil
}

func (h *Host) shimAddrs(link netlink.Link) ([]netip.Addr, error) {
	list, err := dump(func() ([]netlink.Addr, error) { return h.nl.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var out []netip.Addr
	for _, a := range list {
		out = append(out, netPrefix(a.IPNet).Addr())
	}
	return out, nil
}

// peers are whom a shim leads to. One of which only the route or only the neighbour is
// there, or where something is odd, lacks the rest, and differs from every wanted one.
// casts says that the shim has a route of multicast.
func (h *Host) peers(name string, index int) (list []Peer, casts bool, err error) {
	filter := &netlink.Route{LinkIndex: index, Table: unix.RT_TABLE_UNSPEC} // of all tables
	routes, err := dump(func() ([]netlink.Route, error) {
		return h.nl.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, false, fmt.Errorf("list routes: %w", err)
	}
	neighbors, err := h.Neighbors(name)
	if err != nil {
		return nil, false, err
	}
	found := map[netip.Addr]Peer{}
	for _, r := range routes {
		dst := netPrefix(r.Dst)
		casts = casts || dst.String() == multicast
		src, _ := netip.AddrFromSlice(r.Src)
		if r.Table == unix.RT_TABLE_MAIN && r.Protocol == routeProtocol && dst.IsSingleIP() {
			found[dst.Addr()] = Peer{Addr: dst.Addr(), Source: src.Unmap()}
		}
	}
	for _, n := range neighbors {
		p := found[n.IP]
		p.Addr, p.MAC = n.IP, n.MAC
		found[n.IP] = p
	}
	for _, p := range found {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b Peer) int { return a.Addr.Compare(b.Addr) })
	return list, casts, nil
}

// metric6 is the metric of IPv6 routes for which none is named, as the kernel lists it.
const metric6 = 1024

// addPeer adds the neighbour, then the way to it.
func (h *Host) addPeer(link netlink.Link, p Peer) error {
	name := link.Attrs().Name
	if p.MAC != (MAC{}) {
		err := h.nl.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, Family: family(p.Addr), State: netlink.NUD_PERMANENT, IP: p.Addr.AsSlice(), HardwareAddr: p.MAC[:]})
		if err != nil {
			return fmt.Errorf("%s: add neighbour %s: %w", name, p, vocabulary(err))
		}
	}
	r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: prefixNet(netip.PrefixFrom(p.Addr, p.Addr.BitLen())),
		Src: p.Source.AsSlice(), Scope: netlink.SCOPE_LINK, Protocol: routeProtocol}
	if p.Addr.Is6() {
		r.Scope, r.Priority = netlink.SCOPE_UNIVERSE, metric6
	}
	err := h.nl.RouteAdd(r)
	if errors.Is(err, syscall.EEXIST) {
		if err := h.foreign(r); err != nil {
			return err
		}
		err = h.nl.RouteReplace(r)
	}
	if err != nil {
		return fmt.Errorf("%s: add route to %s from %s: %w", name, p.Addr, p.Source, vocabulary(err))
	}
	return nil
}

// foreign is an error if another device has the route.
func (h *Host) foreign(r *netlink.Route) error {
	list, err := dump(func() ([]netlink.Route, error) {
		return h.nl.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Dst: r.Dst}, netlink.RT_FILTER_DST)
	})
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, have := range list {
		if have.LinkIndex != r.LinkIndex && have.Priority == r.Priority {
			return fmt.Errorf("a route to %s that is not weft's %w: %s", r.Dst, ErrExists, have)
		}
	}
	return nil
}

// RemovePeers takes peers off a shim. It goes on after errors; what is gone already is
// success.
func (h *Host) RemovePeers(shim string, addrs []netip.Addr) error {
	if len(addrs) == 0 {
		return nil
	}
	index, err := h.indexOf(shim)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range addrs {
		route := h.nl.RouteDel(&netlink.Route{LinkIndex: index, Dst: prefixNet(netip.PrefixFrom(a, a.BitLen())), Protocol: routeProtocol, Scope: netlink.SCOPE_NOWHERE})
		neigh := h.nl.NeighDel(&netlink.Neigh{LinkIndex: index, Family: family(a), IP: a.AsSlice()})
		for _, err := range []error{route, neigh} {
			if err != nil && !errors.Is(err, syscall.ESRCH) && !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ENODEV) {
				errs = append(errs, fmt.Errorf("%s: remove peer %s: %w", shim, a, err))
			}
		}
	}
	return errors.Join(errs...)
}

// CheckShim says in what the host's shim differs from the wanted one; "" if in nothing. It
// changes nothing.
func (h *Host) CheckShim(s Shim) (difference string, err error) {
	link, err := h.nl.LinkByName(s.Name)
	if errors.Is(vocabulary(err), ErrNotFound) {
		return "it is missing", nil
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", s.Name, err)
	}
	parent, err := h.nl.LinkByName(s.Parent)
	if err != nil {
		return "", fmt.Errorf("%s: parent %s: %w", s.Name, s.Parent, vocabulary(err))
	}
	if !isShim(link, s, parent.Attrs().Index) {
		return "it is another device", nil
	}
	if f := link.Attrs().RawFlags; f&unix.IFF_UP == 0 || f&unix.IFF_NOARP == 0 || f&unix.IFF_MULTICAST != 0 {
		return "it is down, or can be heard", nil
	}
	addrs, err := h.shimAddrs(link)
	if err != nil {
		return "", err
	}
	peers, casts, err := h.peers(s.Name, link.Attrs().Index)
	if err != nil {
		return "", err
	}
	if casts {
		return "multicast leaves by it", nil
	}
	return differs(s, addrs, peers), nil
}

// differs compares a shim's addresses and peers with those that it has.
func differs(s Shim, addrs []netip.Addr, peers []Peer) string {
	var out []string
	for _, d := range []struct {
		what       string
		want, have map[string]bool
	}{{"address", texts(s.Addrs), texts(addrs)}, {"peer", texts(s.Peers), texts(peers)}} {
		for v := range d.want {
			if !d.have[v] {
				out = append(out, "without "+d.what+" "+v)
			}
		}
		for v := range d.have {
			if !d.want[v] {
				out = append(out, "with "+d.what+" "+v)
			}
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func texts[T fmt.Stringer](list []T) map[string]bool {
	out := map[string]bool{}
	for _, v := range list {
		out[v.String()] = true
	}
	return out
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

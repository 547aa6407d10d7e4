package kernel

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// prefixNet converts a prefix, host bits kept.
func prefixNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// netPrefix converts back; the zero prefix stands for nil.
func netPrefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	a, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones)
}

// EnsureBridge makes the bridge be as the fact says. It reports whether the
// device was made by this call. A device of that name that is not a bridge is
// ErrNotBridge; with Adopt, a missing device is ErrNotFound.
func (h *Host) EnsureBridge(b Bridge) (made bool, err error) {
	link, err := h.nl.LinkByName(b.Name)
	if err != nil {
		if err = vocabulary(err); !errors.Is(err, ErrNotFound) || b.Adopt {
			return false, fmt.Errorf("bridge %s: %w", b.Name, err)
		}
		if err := h.makeBridge(b); err != nil {
			return false, err
		}
		made = true
		if link, err = h.nl.LinkByName(b.Name); err != nil {
			return made, fmt.Errorf("bridge %s: %w", b.Name, vocabulary(err))
		}
	}
	if link.Type() != "bridge" {
		return made, fmt.Errorf("device %s %w but of kind %s", b.Name, ErrNotBridge, link.Type())
	}
	if !b.Adopt {
		if err := h.dressBridge(b, link); err != nil {
			return made, err
		}
	}
	if err := h.ensureAddrs(link, b.Addrs, b.Gateways); err != nil {
		return made, err
	}
	if len(b.Gateways) > 0 {
		// ARP requests carry the best of the host's addresses, never the gateway.
		if _, err := h.proc.ensure(Sysctl{"net/ipv4/conf/" + b.Name + "/arp_announce", "2"}); err != nil {
			return made, err
		}
	}
	if b.RouteLocalnet {
		if _, err := h.proc.ensure(Sysctl{"net/ipv4/conf/" + b.Name + "/route_localnet", "1"}); err != nil {
			return made, err
		}
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := h.nl.LinkSetUp(link); err != nil {
			return made, fmt.Errorf("bridge %s: set up: %w", b.Name, err)
		}
	}
	return made, nil
}

// makeBridge leaves the MTU to a later message: one that is part of the create
// message changes again with every port that comes or goes (br_mtu_auto_adjust).
func (h *Host) makeBridge(b Bridge) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.Group = b.Name, b.MAC, Group
	link := &netlink.Bridge{LinkAttrs: attrs}
	if b.NoSnooping {
		link.MulticastSnooping = new(bool)
	}
	err := h.nl.LinkAdd(link)
	if err != nil && !errors.Is(err, syscall.EEXIST) {
		return fmt.Errorf("make bridge %s: %w", b.Name, err)
	}
	return nil
}

// dressBridge mends what is not part of the create message.
func (h *Host) dressBridge(b Bridge, link netlink.Link) error {
	a := link.Attrs()
	if b.Alias != "" && a.Alias != b.Alias {
		if err := h.nl.LinkSetAlias(link, b.Alias); err != nil {
			return fmt.Errorf("bridge %s: set alias: %w", b.Name, err)
		}
	}
	if b.MTU > 0 && a.MTU != b.MTU {
		if err := h.nl.LinkSetMTU(link, b.MTU); err != nil {
			return fmt.Errorf("bridge %s: set MTU %d: %w", b.Name, b.MTU, err)
		}
	}
	if br, ok := link.(*netlink.Bridge); ok && b.NoSnooping && br.MulticastSnooping != nil && *br.MulticastSnooping {
		if err := h.nl.BridgeSetMcastSnoop(link, false); err != nil {
			return fmt.Errorf("bridge %s: switch multicast snooping off: %w", b.Name, err)
		}
	}
	sysctls := []Sysctl{{"net.ipv6.conf." + b.Name + ".disable_ipv6", "1"}}
	if b.IPv6 {
		sysctls[0].Value = "0"
		sysctls = append(sysctls,
			Sysctl{"net.ipv6.conf." + b.Name + ".accept_ra", "0"},
			Sysctl{"net.ipv6.conf." + b.Name + ".accept_dad", "0"})
	}
	for _, s := range sysctls {
		_, err := h.proc.ensure(s)
		if err != nil && (b.IPv6 || !errors.Is(err, ErrNotFound)) { // a kernel without IPv6 has no such file
			return fmt.Errorf("bridge %s: %w", b.Name, err)
		}
	}
	return nil
}

// ensureAddrs adds what is missing. Gateways come last: of several IPv4
// addresses that fit, the kernel takes the first as source (inet_select_addr),
// so a gateway that is there before a new address is added again after it.
func (h *Host) ensureAddrs(link netlink.Link, want []netip.Prefix, gateways []netip.Addr) error {
	name := link.Attrs().Name
	fresh := false
	for _, p := range want {
		a := ipNet(p)
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		err := h.nl.AddrAdd(link, a)
		if err != nil && !errors.Is(err, syscall.EEXIST) {
			return fmt.Errorf("%s: add address %s: %w", name, p, err)
		}
		fresh = fresh || err == nil && p.Addr().Is4()
	}
	for _, gw := range gateways {
		a := gatewayAddr(gw)
		if fresh && gw.Is4() {
			if err := h.nl.AddrDel(link, a); err != nil && !errors.Is(err, syscall.EADDRNOTAVAIL) {
				return fmt.Errorf("%s: put gateway %s behind the other addresses: %w", name, gw, err)
			}
		}
		if err := h.nl.AddrAdd(link, a); err != nil && !errors.Is(err, syscall.EEXIST) {
			return fmt.Errorf("%s: add gateway %s: %w", name, gw, err)
		}
	}
	return nil
}

// gatewayAddr is the address without a route of its own. An IPv6 one has no
// preferred lifetime: the kernel would prefer a /128 to the host's own address
// for destinations that share more bits with it (RFC 6724, rule 8), but takes
// no deprecated address while there is another (rule 3).
func gatewayAddr(gw netip.Addr) *netlink.Addr {
	a := ipNet(netip.PrefixFrom(gw, gw.BitLen()))
	a.Flags = unix.IFA_F_NOPREFIXROUTE
	if gw.Is6() {
		a.Flags |= unix.IFA_F_NODAD
		a.ValidLft, a.PreferedLft = math.MaxUint32, 0
	}
	return a
}

// RemoveAddrs takes addresses off a device; what is absent already is success.
func (h *Host) RemoveAddrs(name string, addrs []netip.Prefix) error {
	link, err := h.nl.LinkByName(name)
	if err != nil {
		if err = vocabulary(err); errors.Is(err, ErrNotFound) {
			return nil
		}
		return fmt.Errorf("%s: remove addresses: %w", name, err)
	}
	var errs []error
	for _, p := range addrs {
		err := h.nl.AddrDel(link, ipNet(p))
		if err != nil && !errors.Is(err, syscall.EADDRNOTAVAIL) && !errors.Is(err, syscall.ENODEV) {
			errs = append(errs, fmt.Errorf("%s: remove address %s: %w", name, p, err))
		}
	}
	return errors.Join(errs...)
}

// AddVeth makes a pair with both ends in this namespace: the host end in the
// bridge and up unless it shall be down, the peer down, ready to be moved. One message, and one more
// for each flag of the port. A pair that is there already is brought into that
// state.
func (h *Host) AddVeth(v Veth) error {
	err := h.createVeth(v, v.Peer, -1)
	if err == nil && !v.Isolated && !v.Hairpin {
		return nil
	}
	if err != nil && !errors.Is(err, ErrExists) {
		return err
	}
	return h.EnsurePort(v)
}

// createVeth sends the one message that makes the pair: names, addresses, MTU,
// bridge, group and the host end's UP. The peer cannot be created up (the
// kernel's veth_open refuses while the pair is incomplete). peerNS is a
// descriptor of the peer's namespace, or -1.
func (h *Host) createVeth(v Veth, peer string, peerNS int) error {
	br, err := h.nl.LinkByName(v.Bridge)
	if err != nil {
		return fmt.Errorf("veth %s: bridge %s: %w", v.Host, v.Bridge, vocabulary(err))
	}
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Flags, msg.Change = unix.IFF_UP, unix.IFF_UP
	if v.Down {
		msg.Flags = 0
	}
	req.AddData(msg)
	add := func(typ int, data []byte) { req.AddData(nl.NewRtAttr(typ, data)) }
	add(unix.IFLA_IFNAME, nl.ZeroTerminated(v.Host))
	add(unix.IFLA_MASTER, nl.Uint32Attr(uint32(br.Attrs().Index)))
	add(unix.IFLA_GROUP, nl.Uint32Attr(Group))
	add(unix.IFLA_NUM_TX_QUEUES, nl.Uint32Attr(1))
	add(unix.IFLA_NUM_RX_QUEUES, nl.Uint32Attr(1))
	if v.MTU > 0 {
		add(unix.IFLA_MTU, nl.Uint32Attr(uint32(v.MTU)))
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	p := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(p, unix.AF_UNSPEC)
	p.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(peer))
	p.AddRtAttr(unix.IFLA_NUM_TX_QUEUES, nl.Uint32Attr(1))
	p.AddRtAttr(unix.IFLA_NUM_RX_QUEUES, nl.Uint32Attr(1))
	if peerNS < 0 {
		p.AddRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(Group))
	} else {
		p.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(peerNS)))
	}
	if v.MTU > 0 {
		p.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(v.MTU)))
	}
	if v.MAC != nil {
		p.AddRtAttr(unix.IFLA_ADDRESS, v.MAC)
	}
	req.AddData(info)
	if err := h.execute(req); err != nil {
		return fmt.Errorf("make veth %s/%s: %w", v.Host, peer, vocabulary(err))
	}
	return nil
}

// EnsurePort makes an existing host end be in its bridge, up or down, with the
// flags of the fact. A missing link is ErrNotFound.
func (h *Host) EnsurePort(v Veth) error {
	link, err := h.nl.LinkByName(v.Host)
	if err != nil {
		return fmt.Errorf("port %s: %w", v.Host, vocabulary(err))
	}
	br, err := h.nl.LinkByName(v.Bridge)
	if err != nil {
		return fmt.Errorf("port %s: bridge %s: %w", v.Host, v.Bridge, vocabulary(err))
	}
	var errs []error
	up := link.Attrs().Flags&net.FlagUp != 0
	if up && v.Down {
		errs = append(errs, h.nl.LinkSetDown(link))
	}
	if link.Attrs().MasterIndex != br.Attrs().Index {
		errs = append(errs, h.nl.LinkSetMasterByIndex(link, br.Attrs().Index))
	}
	if !up && !v.Down {
		errs = append(errs, h.nl.LinkSetUp(link))
	}
	if v.Isolated {
		errs = append(errs, h.nl.LinkSetIsolated(link, true))
	}
	if v.Hairpin {
		errs = append(errs, h.nl.LinkSetHairpin(link, true))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("port %s of bridge %s: %w", v.Host, v.Bridge, err)
	}
	return nil
}

// Links lists the devices of this namespace.
func (h *Host) Links() ([]Link, error) {
	list, err := dump(h.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	out := make([]Link, 0, len(list))
	for _, l := range list {
		out = append(out, toLink(l))
	}
	return out, nil
}

// LinkByName finds one device, or ErrNotFound.
func (h *Host) LinkByName(name string) (Link, error) {
	l, err := h.nl.LinkByName(name)
	if err != nil {
		return Link{}, fmt.Errorf("link %s: %w", name, vocabulary(err))
	}
	return toLink(l), nil
}

func toLink(l netlink.Link) Link {
	a := l.Attrs()
	kind := l.Type()
	if kind == "device" {
		kind = ""
	}
	// The carrier is what the other end says at once; the state that a bridge goes by
	// follows it by a work queue, and is unknown, not down, of a new device.
	const running = unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_LOWER_UP
	out := Link{Index: a.Index, Name: a.Name, Alias: a.Alias, Kind: kind, Master: a.MasterIndex, Group: a.Group,
		MTU: a.MTU, Up: a.Flags&net.FlagUp != 0, Loopback: a.Flags&net.FlagLoopback != 0,
		Running: a.RawFlags&running == running, Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0, Bare: a.EncapType != "ether"}
	copy(out.MAC[:], a.HardwareAddr)
	copy(out.PermMAC[:], a.PermHWAddr)
	out.AltNames = a.AltNames
	if a.NetNsID < 0 { // the device below is in this namespace
		out.Parent = a.ParentIndex
	}
	if v, ok := l.(*netlink.Vlan); ok {
		out.VLAN, out.Provider = v.VlanId, v.VlanProtocol == netlink.VLAN_PROTOCOL_8021AD
	}
	if p := a.Protinfo; p != nil {
		out.Hairpin, out.Isolated = p.Hairpin, p.Isolated
	}
	return out
}

// Addresses lists the addresses of every device.
func (h *Host) Addresses() ([]Address, error) {
	list, err := dump(func() ([]netlink.Addr, error) { return h.nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	out := make([]Address, 0, len(list))
	for _, a := range list {
		p, refused := netPrefix(a.IPNet), a.Flags&unix.IFA_F_DADFAILED != 0
		out = append(out, Address{Link: a.LinkIndex, Prefix: p, Tentative: a.Flags&unix.IFA_F_TENTATIVE != 0 && !refused, Refused: refused,
			Deprecated: a.Flags&unix.IFA_F_DEPRECATED != 0, Passing: a.Flags&unix.IFA_F_PERMANENT == 0,
			Temporary: a.Flags&unix.IFA_F_TEMPORARY != 0 && p.Addr().Is6()}) // of IPv4 it is another flag
	}
	return out, nil
}

// Routes lists the main routing table.
func (h *Host) Routes() ([]Route, error) {
	list, err := dump(func() ([]netlink.Route, error) { return h.nl.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	out := make([]Route, 0, len(list))
	for _, r := range list {
		out = append(out, toRoute(r))
	}
	return out, nil
}

// RouteMatch returns the route of the main table that the kernel takes to an address, whatever
// the number of routes. One of another table, one that refuses, one to an address of the
// host's own (of the main table as well, if the kernel keeps both in one) or none at all is
// [ErrNotFound].
func (h *Host) RouteMatch(to netip.Addr) (Route, error) {
	list, err := h.nl.RouteGetWithOptions(to.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
	if err = noRoute(err); err == nil && (len(list) != 1 || list[0].Table != unix.RT_TABLE_MAIN || list[0].Type != unix.RTN_UNICAST || list[0].Dst == nil) {
		err = ErrNotFound
	}
	if err != nil {
		return Route{}, fmt.Errorf("route to %s: %w", to, err)
	}
	return toRoute(list[0]), nil
}

func toRoute(r netlink.Route) Route {
	out := Route{Dst: netPrefix(r.Dst), Link: r.LinkIndex, Ours: r.Protocol == routeProtocol}
	out.Gateway = nextHop(r.Gw, r.Via)
	if len(r.MultiPath) > 0 {
		first := r.MultiPath[0]
		out.Link, out.Gateway = first.LinkIndex, nextHop(first.Gw, first.Via)
	}
	switch r.Type {
	case unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW:
		out.Link = 0 // with IPv6 the kernel says lo
	}
	return out
}

// nextHop is the router of a route, if it has one. That of an IPv4 route may have an IPv6
// address.
func nextHop(gw net.IP, other netlink.Destination) netip.Addr {
	if via, ok := other.(*netlink.Via); ok {
		gw = via.Addr
	}
	a, _ := netip.AddrFromSlice(gw)
	return a.Unmap()
}

// Detach takes a link out of service at once: one message sets it down and puts
// it into the group of links that [Host.DeleteDoomed] deletes together. A link
// that is gone is success.
func (h *Host) Detach(name string) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Change = unix.IFF_UP
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(DoomedGroup)))
	if err := vocabulary(h.execute(req)); err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("detach %s: %w", name, err)
	}
	return nil
}

// DeleteDoomed deletes every link of the doomed group by one message: one RCU
// grace period for all of them. No such link is success.
func (h *Host) DeleteDoomed() error {
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(DoomedGroup)))
	// A socket of its own: the deletion takes tens of milliseconds, and nothing
	// else should wait for it.
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if err = vocabulary(err); err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("delete doomed links: %w", err)
	}
	return nil
}

// DeleteLink deletes one device; one that is gone is success.
func (h *Host) DeleteLink(name string) error {
	link, err := h.nl.LinkByName(name)
	if err == nil {
		err = h.nl.LinkDel(link)
	}
	if err = vocabulary(err); err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}

// expand puts the device's name into a sysctl's key.
func expand(s Sysctl, ifname string) Sysctl {
	s.Key = strings.ReplaceAll(s.Key, "IFNAME", ifname)
	return s
}

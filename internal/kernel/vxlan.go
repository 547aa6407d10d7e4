package kernel

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// VXLAN is the fact that a VXLAN device (RFC 7348) is a port of a bridge and
// carries its frames to other hosts.
//
// Where frames go is said by entries alone ([Host.ApplyForwarding]): neither the
// device nor the port learns, and the device asks nobody about what it misses.
// The port answers ARP and neighbour solicitations from the permanent
// neighbours of the bridge (neigh_suppress, Linux 4.15), and keeps what it
// could answer out of the tunnel; a destination without an entry goes to every
// host that the device's all-zeros entries name. IPv6 is off on the device
// itself: otherwise it would talk MLD and DAD into the tunnel on its own.
//
// On the wire: the TTL is the host's default, never the inner one, so that a
// container's traceroute cannot end inside the tunnel; the DSCP is 0, because a
// container does not choose the class of service of the underlay, while ECN is
// carried over by the kernel; DF is unset, so that a path with a smaller MTU
// than its route says fragments instead of losing frames in silence. Over IPv4
// the UDP checksum is zero, as RFC 7348 §4.1 wants, and more network cards
// segment such packets; over IPv6 it is sent and demanded (RFC 8200 §8.1).
//
// The device has no lower device: routes choose the way, and it survives when a
// network card goes.
type VXLAN struct {
	// Name is the device's name, at most 15 bytes.
	Name string
	// Alias is the device's ifalias; it says to whom the device belongs.
	Alias string
	// VNI is the network's number in the tunnel, 1 to 16777215.
	VNI uint32
	// Port is the UDP port on every host.
	Port uint16
	// Local is this host's address on the underlay; its family is the tunnel's.
	Local netip.Addr
	// MTU of the frames inside in bytes; 0 leaves the kernel's default. The kernel
	// does not compare it with the underlay's: see [VXLANOverhead].
	MTU int
	// MAC of the device; nil lets the kernel choose. No frame carries it.
	MAC net.HardwareAddr
	// Bridge is the name of the bridge that the device is a port of.
	Bridge string
}

// MaxVNI is the highest VXLAN network identifier; 0 is not used.
const MaxVNI = 1<<24 - 1

// VXLANOverhead is by how many bytes the MTU inside is below that of the
// underlay: the outer IP header, UDP, VXLAN and the inner Ethernet header.
func VXLANOverhead(underlay netip.Addr) int {
	if underlay.Unmap().Is4() {
		return 20 + 8 + 8 + 14
	}
	return 40 + 8 + 8 + 14
}

// check finds what no kernel would take.
func (v VXLAN) check() error {
	switch {
	case v.Name == "" || len(v.Name) >= unix.IFNAMSIZ:
		return fmt.Errorf("VXLAN device %q: name %w: use 1 to 15 bytes", v.Name, ErrInvalid)
	case v.VNI == 0 || v.VNI > MaxVNI:
		return fmt.Errorf("VXLAN device %s: VNI %d %w: use 1 to %d", v.Name, v.VNI, ErrInvalid, MaxVNI)
	case v.Port == 0:
		return fmt.Errorf("VXLAN device %s: UDP port 0 %w: use 1 to 65535", v.Name, ErrInvalid)
	case !v.Local.IsValid() || v.Local.IsUnspecified() || v.Local.IsMulticast() || v.Local.IsLoopback() || v.Local.Zone() != "":
		return fmt.Errorf("VXLAN device %s: local address %s %w: use this host's unicast address on the underlay", v.Name, v.Local, ErrInvalid)
	}
	return nil
}

// vxlanState is a VXLAN device as it is.
type vxlanState struct {
	VXLAN
	index, master int
	group         uint32
	up            bool
	// foreign is set when the device has a flag that only a new one is without.
	foreign bool
	// loose is set when a setting that can be changed in place is not as it should be.
	loose bool
	// port are the bridge port's flags by attribute.
	port map[uint16]byte
}

// EnsureVXLAN makes the device be as the fact says: in its bridge, and up. What
// the kernel cannot change in place (VNI, port, address family) makes it anew,
// and then all its entries are gone: [Made] says so. The address, MTU and port
// flags are mended without loss.
//
// The bridge must exist (ErrNotFound, ErrNotBridge). A device of that name that
// is not a VXLAN device is ErrNotVXLAN, one that weft did not make ErrExists; a
// VNI that another device has on the same port is ErrVNIInUse, and a UDP port
// that a process or a VXLAN device with other flags holds is ErrPortInUse. A
// device that could not be brought up is removed again.
func (h *Host) EnsureVXLAN(v VXLAN) (Change, error) {
	if err := v.check(); err != nil {
		return Kept, err
	}
	v.Local = v.Local.Unmap()
	br, err := h.nl.LinkByName(v.Bridge)
	if err != nil {
		return Kept, fmt.Errorf("VXLAN device %s: bridge %s: %w", v.Name, v.Bridge, vocabulary(err))
	}
	if br.Type() != "bridge" {
		return Kept, fmt.Errorf("VXLAN device %s: device %s %w but of kind %s", v.Name, v.Bridge, ErrNotBridge, br.Type())
	}
	have, err := h.vxlan(v.Name)
	switch {
	case errors.Is(err, ErrNotFound):
		return h.makeVXLAN(v, br.Attrs().Index)
	case err != nil:
		return Kept, err
	case have.group != Group && have.group != DoomedGroup:
		return Kept, fmt.Errorf("VXLAN device %s (VNI %d) %w and is not weft's: delete or rename it", v.Name, have.VNI, ErrExists)
	case have.group == DoomedGroup || have.foreign || have.VNI != v.VNI || have.Port != v.Port || have.Local.Is4() != v.Local.Is4():
		if err := h.DeleteLink(v.Name); err != nil {
			return Kept, err
		}
		return h.makeVXLAN(v, br.Attrs().Index)
	}
	return h.mendVXLAN(v, have, br.Attrs().Index)
}

// makeVXLAN makes the device down, so that its port never learns and IPv6 never
// starts, and brings it up when it is complete.
func (h *Host) makeVXLAN(v VXLAN, bridge int) (_ Change, retErr error) {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	add := func(typ int, data []byte) { req.AddData(nl.NewRtAttr(typ, data)) }
	add(unix.IFLA_IFNAME, nl.ZeroTerminated(v.Name))
	add(unix.IFLA_GROUP, nl.Uint32Attr(Group))
	add(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridge)))
	if v.MTU > 0 {
		add(unix.IFLA_MTU, nl.Uint32Attr(uint32(v.MTU)))
	}
	if v.MAC != nil {
		add(unix.IFLA_ADDRESS, v.MAC)
	}
	req.AddData(v.linkInfo(true))
	err := h.execute(req)
	if errors.Is(err, syscall.EEXIST) {
		holder, doomed := h.deviceOf(v)
		if doomed {
			// It waits for Later; its VNI is wanted now.
			if err := h.DeleteLink(holder); err != nil {
				return Kept, err
			}
			err = h.execute(req)
		}
		if errors.Is(err, syscall.EEXIST) {
			return Kept, fmt.Errorf("VXLAN device %s: VNI %d on UDP port %d %w by device %s: give the network another VNI or delete that device",
				v.Name, v.VNI, v.Port, ErrVNIInUse, cmp.Or(holder, "unknown"))
		}
	}
	if err != nil {
		return Kept, fmt.Errorf("make VXLAN device %s (VNI %d, local address %s): %w", v.Name, v.VNI, v.Local, vocabulary(err))
	}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, h.DeleteLink(v.Name))
		}
	}()
	link, err := h.nl.LinkByName(v.Name)
	if err != nil {
		return Kept, fmt.Errorf("VXLAN device %s: %w", v.Name, vocabulary(err))
	}
	_, err = h.proc.ensure(Sysctl{"net/ipv6/conf/" + v.Name + "/disable_ipv6", "1"})
	if err != nil && !errors.Is(err, ErrNotFound) { // a kernel without IPv6 has no such file
		return Kept, fmt.Errorf("VXLAN device %s: %w", v.Name, err)
	}
	if err := h.setTunnelPort(link.Attrs().Index); err != nil {
		return Kept, fmt.Errorf("VXLAN device %s: set flags of the port: %w", v.Name, err)
	}
	if v.Alias != "" {
		if err := h.nl.LinkSetAlias(link, v.Alias); err != nil {
			return Kept, fmt.Errorf("VXLAN device %s: set alias: %w", v.Name, err)
		}
	}
	if err := h.upVXLAN(v, link); err != nil {
		return Kept, err
	}
	return Made, nil
}

// upVXLAN sets the device up, which is when the kernel binds the UDP port.
func (h *Host) upVXLAN(v VXLAN, link netlink.Link) error {
	err := h.nl.LinkSetUp(link)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("VXLAN device %s: UDP port %d %w%s: stop that, or choose another port on every host", v.Name, v.Port, ErrPortInUse, h.portUser(v))
	}
	if err != nil {
		return fmt.Errorf("VXLAN device %s: set up: %w", v.Name, err)
	}
	return nil
}

// mendVXLAN changes in place what differs.
func (h *Host) mendVXLAN(v VXLAN, have vxlanState, bridge int) (Change, error) {
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: v.Name, Index: have.index}}
	fixes := []struct {
		need bool
		what string
		do   func() error
	}{
		{have.loose || have.Local != v.Local, "local address " + v.Local.String(), func() error {
			req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
			msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
			msg.Index = int32(have.index)
			req.AddData(msg)
			req.AddData(v.linkInfo(false))
			return h.execute(req)
		}},
		{v.MTU > 0 && have.MTU != v.MTU, fmt.Sprint("MTU ", v.MTU), func() error { return h.nl.LinkSetMTU(link, v.MTU) }},
		{v.MAC != nil && !bytes.Equal(have.MAC, v.MAC), "address " + v.MAC.String(), func() error { return h.nl.LinkSetHardwareAddr(link, v.MAC) }},
		{v.Alias != "" && have.Alias != v.Alias, "alias", func() error { return h.nl.LinkSetAlias(link, v.Alias) }},
		{have.master != bridge, "bridge " + v.Bridge, func() error { return h.nl.LinkSetMasterByIndex(link, bridge) }},
		{have.master != bridge || !tunnelPort(have.port), "flags of the port", func() error { return h.setTunnelPort(have.index) }},
		{!have.up, "", func() error { return h.upVXLAN(v, link) }},
	}
	change := Kept
	var errs []error
	for _, f := range fixes {
		if !f.need {
			continue
		}
		change = Mended
		if err := f.do(); errors.Is(err, ErrPortInUse) {
			errs = append(errs, err)
		} else if err != nil {
			errs = append(errs, fmt.Errorf("VXLAN device %s: set %s: %w", v.Name, f.what, vocabulary(err)))
		}
	}
	return change, errors.Join(errs...)
}

// Attributes that the netlink library does not name (linux/if_link.h).
const (
	vxlanTTLInherit = 28 // IFLA_VXLAN_TTL_INHERIT, Linux 4.18
	vxlanDF         = 29 // IFLA_VXLAN_DF, Linux 4.20
	// attrType is an attribute's type without the bits NLA_F_NESTED and _NET_BYTEORDER.
	attrType = 1<<14 - 1
)

// linkInfo says how the device is; whole adds what a device has for life.
func (v VXLAN) linkInfo(whole bool) *nl.RtAttr {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("vxlan"))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	local := nl.IFLA_VXLAN_LOCAL
	if v.Local.Is6() {
		local = nl.IFLA_VXLAN_LOCAL6
	}
	data.AddRtAttr(local, v.Local.AsSlice())
	data.AddRtAttr(nl.IFLA_VXLAN_LEARNING, []byte{0})
	data.AddRtAttr(nl.IFLA_VXLAN_TTL, []byte{0})
	data.AddRtAttr(nl.IFLA_VXLAN_TOS, []byte{0})
	if !whole {
		return info
	}
	data.AddRtAttr(nl.IFLA_VXLAN_ID, nl.Uint32Attr(v.VNI))
	data.AddRtAttr(nl.IFLA_VXLAN_PORT, binary.BigEndian.AppendUint16(nil, v.Port))
	data.AddRtAttr(nl.IFLA_VXLAN_UDP_CSUM, []byte{0}) // of IPv4; the kernel's default is 1
	return info
}

// tunnelFlags are the flags of a VXLAN device's bridge port: no learning, every
// kind of flooding, answers from the bridge's neighbours, not isolated (an
// isolated container port must reach other hosts).
func tunnelFlags() map[uint16]byte {
	return map[uint16]byte{
		nl.IFLA_BRPORT_LEARNING:       0,
		nl.IFLA_BRPORT_UNICAST_FLOOD:  1,
		nl.IFLA_BRPORT_MCAST_FLOOD:    1,
		nl.IFLA_BRPORT_BCAST_FLOOD:    1,
		nl.IFLA_BRPORT_NEIGH_SUPPRESS: 1,
		nl.IFLA_BRPORT_ISOLATED:       0,
		nl.IFLA_BRPORT_MODE:           0, // hairpin: frames never go back into the tunnel
	}
}

// tunnelPort says whether the flags of a port are those.
func tunnelPort(have map[uint16]byte) bool {
	for typ, want := range tunnelFlags() {
		if got, known := have[typ]; !known || got != want {
			return false
		}
	}
	return true
}

// setTunnelPort sets all of them by one message.
func (h *Host) setTunnelPort(index int) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	for typ, value := range tunnelFlags() {
		info.AddRtAttr(int(typ), []byte{value})
	}
	req.AddData(info)
	return h.execute(req)
}

// vxlan reads one device with the flags of its bridge port, by one message.
func (h *Host) vxlan(name string) (vxlanState, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	msgs, err := h.ask(req)
	if err != nil {
		return vxlanState{}, fmt.Errorf("VXLAN device %s: %w", name, vocabulary(err))
	}
	if len(msgs) == 0 {
		return vxlanState{}, fmt.Errorf("VXLAN device %s: %w", name, ErrNotFound)
	}
	link, err := netlink.LinkDeserialize(nil, msgs[0])
	if err != nil {
		return vxlanState{}, fmt.Errorf("VXLAN device %s: %w", name, err)
	}
	dev, ok := link.(*netlink.Vxlan)
	if !ok {
		return vxlanState{}, fmt.Errorf("device %s %w but of kind %s", name, ErrNotVXLAN, link.Type())
	}
	s := toVXLAN(dev)
	return s, s.readInfo(msgs[0])
}

func toVXLAN(dev *netlink.Vxlan) vxlanState {
	local, _ := netip.AddrFromSlice(dev.SrcAddr)
	a := dev.Attrs()
	return vxlanState{
		VXLAN: VXLAN{Name: a.Name, Alias: a.Alias, VNI: uint32(dev.VxlanId), Port: uint16(dev.Port), Local: local, MTU: a.MTU, MAC: a.HardwareAddr},
		index: a.Index, master: a.MasterIndex, group: a.Group, up: a.Flags&net.FlagUp != 0,
		foreign: dev.Proxy || dev.RSC || dev.L2miss || dev.L3miss || dev.GBP || dev.FlowBased || dev.VtepDevIndex != 0 ||
			dev.UDP6ZeroCSumRx || dev.UDP6ZeroCSumTx || dev.UDPCSum || len(dev.Group) > 0,
		loose: dev.Learning || dev.TTL != 0 || dev.TOS != 0,
	}
}

// readInfo reads what the netlink library leaves out of a link message.
func (s *vxlanState) readInfo(m []byte) error {
	attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfInfomsg:])
	if err != nil {
		return fmt.Errorf("VXLAN device %s: %w", s.Name, err)
	}
	s.port = map[uint16]byte{}
	for _, a := range attrs {
		if a.Attr.Type&attrType != unix.IFLA_LINKINFO {
			continue
		}
		infos, err := nl.ParseRouteAttr(a.Value)
		if err != nil {
			return fmt.Errorf("VXLAN device %s: %w", s.Name, err)
		}
		for _, info := range infos {
			typ := info.Attr.Type & attrType
			if typ != nl.IFLA_INFO_SLAVE_DATA && typ != nl.IFLA_INFO_DATA {
				continue
			}
			fields, err := nl.ParseRouteAttr(info.Value)
			if err != nil {
				return fmt.Errorf("VXLAN device %s: %w", s.Name, err)
			}
			for _, f := range fields {
				key := f.Attr.Type & attrType
				switch {
				case len(f.Value) != 1:
				case typ == nl.IFLA_INFO_SLAVE_DATA:
					s.port[key] = f.Value[0]
				case key == vxlanTTLInherit || key == vxlanDF:
					s.foreign = s.foreign || f.Value[0] != 0
				}
			}
		}
	}
	return nil
}

// VXLANs lists the VXLAN devices of this namespace, weft's and others, with the
// names of their bridges, sorted by name.
func (h *Host) VXLANs() ([]VXLAN, error) {
	list, err := dump(h.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list VXLAN devices: %w", err)
	}
	names := map[int]string{}
	for _, l := range list {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	var out []VXLAN
	for _, l := range list {
		if dev, ok := l.(*netlink.Vxlan); ok {
			s := toVXLAN(dev)
			s.Bridge = names[s.master]
			out = append(out, s.VXLAN)
		}
	}
	slices.SortFunc(out, func(a, b VXLAN) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// deviceOf names the device that has the VNI that v wants, and says whether it
// waits for its deletion.
func (h *Host) deviceOf(v VXLAN) (name string, doomed bool) {
	list, err := dump(h.nl.LinkList)
	if err != nil {
		return "", false
	}
	for _, l := range list {
		if dev, ok := l.(*netlink.Vxlan); ok && uint32(dev.VxlanId) == v.VNI && uint16(dev.Port) == v.Port && sameFamily(toVXLAN(dev).Local, v.Local) {
			return dev.Name, dev.LinkAttrs.Group == DoomedGroup
		}
	}
	return "", false
}

// sameFamily says whether two tunnels use one socket; no address is IPv4.
func sameFamily(a, b netip.Addr) bool { return a.Is6() == b.Is6() }

// portUser names who holds the UDP port of a device, for an error.
func (h *Host) portUser(v VXLAN) string {
	if list, err := h.VXLANs(); err == nil {
		for _, other := range list {
			if other.Name != v.Name && other.Port == v.Port && sameFamily(other.Local, v.Local) {
				return fmt.Sprintf(" by VXLAN device %s (VNI %d), which has other flags", other.Name, other.VNI)
			}
		}
	}
	any := netip.IPv4Unspecified()
	if v.Local.Is6() {
		any = netip.IPv6Unspecified()
	}
	holder, err := h.PortHolder(unix.IPPROTO_UDP, netip.AddrPortFrom(any, v.Port))
	if err != nil {
		return ""
	}
	text := fmt.Sprintf(" by a socket at %s of uid %d", holder.Local, holder.UID)
	if holder.Unit != "" {
		text += " in " + holder.Unit
	}
	return text
}

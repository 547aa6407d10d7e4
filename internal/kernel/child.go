package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ChildKind is a kind of device that shares the line of another one.
type ChildKind string

// Kinds of children.
const (
	Macvlan ChildKind = "macvlan" // each has a MAC address of its own
	IPvlan  ChildKind = "ipvlan"  // all have the parent's
)

// Child is the fact that a device exists on top of another one, its parent.
type Child struct {
	Kind ChildKind
	// Name is the device's, Parent that of the device below.
	Name, Parent string
	// Alias is the device's ifalias. It stays when the engine renames and moves the
	// device, so the device is found by it.
	Alias string
	// Mode is bridge, private, vepa or passthru of macvlan, l2, l3 or l3s of ipvlan.
	Mode string
	// Flag is bridge, private or vepa of ipvlan.
	Flag string
	// MTU in bytes; 0 is the parent's.
	MTU int
	// MAC is the address of a macvlan device; nil lets the kernel choose.
	MAC net.HardwareAddr
}

// ChildAttachment is a child that is made inside a sandbox, addressed and up.
type ChildAttachment struct {
	Child
	// Sandbox, Prefix, Addrs and Sysctls are those of [Attachment]; Prefix is ignored
	// when Name is set.
	Sandbox string
	Prefix  string
	Addrs   []netip.Prefix
	Sysctls []Sysctl
	// Routes lead out of the device without a gateway.
	Routes []netip.Prefix
	// Silent makes no announcement: nobody on the line asks for the addresses.
	Silent bool
	// Hosts are whom the device need not ask for.
	Hosts Hosts
	// Down leaves the device down.
	Down bool
}

// AddChild makes the device in this namespace, down, ready to be moved. One that is
// there already on that parent stays; of another kind or parent it is [ErrExists].
// [ErrBusy] means that the parent is held by something that admits no such child.
func (h *Host) AddChild(c Child) error {
	err := h.createChild(c, -1)
	if err == nil {
		return h.setAlias(c)
	}
	if !errors.Is(err, ErrExists) {
		return err
	}
	have, lookup := h.LinkByName(c.Name)
	parent, below := h.LinkByName(c.Parent)
	if lookup != nil || below != nil || have.Kind != string(c.Kind) || have.Parent != parent.Index {
		return err
	}
	return nil
}

// setAlias names a new child; one that cannot be named is deleted.
func (h *Host) setAlias(c Child) error {
	link, err := h.nl.LinkByName(c.Name)
	if err == nil {
		err = h.nl.LinkSetAlias(link, c.Alias)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%s: set alias: %w", c.Name, vocabulary(err)), h.DeleteLink(c.Name))
	}
	return nil
}

// TryChild says whether the parent takes such a child now, and leaves nothing behind.
func (h *Host) TryChild(c Child) error {
	if err := h.createChild(c, -1); err != nil {
		return err
	}
	return h.DeleteLink(c.Name)
}

// createChild sends the one message that makes the device. ns is a descriptor of its
// namespace, or -1 for this one.
func (h *Host) createChild(c Child, ns int) error {
	parent, err := h.nl.LinkByName(c.Parent)
	if err != nil {
		return fmt.Errorf("%s %s: parent %s: %w", c.Kind, c.Name, c.Parent, vocabulary(err))
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.MTU, attrs.Group = c.Name, parent.Attrs().Index, c.MTU, Group
	if ns >= 0 {
		attrs.Namespace = netlink.NsFd(ns)
	}
	var link netlink.Link
	switch c.Kind {
	case Macvlan:
		attrs.HardwareAddr = c.MAC
		link = &netlink.Macvlan{LinkAttrs: attrs, Mode: macvlanMode(c.Mode)}
	case IPvlan:
		link = &netlink.IPVlan{LinkAttrs: attrs, Mode: ipvlanMode(c.Mode), Flag: ipvlanFlag(c.Flag)}
	default:
		return fmt.Errorf("device %s of kind %q: %w", c.Name, c.Kind, ErrNotSupported)
	}
	err = h.nl.LinkAdd(link)
	switch mtu := parent.Attrs().MTU; {
	case !errors.Is(err, syscall.EINVAL) || c.Kind != Macvlan:
	case c.MTU > mtu:
		err = fmt.Errorf("its MTU of %d is more than the parent's %d: set that higher again: %w", c.MTU, mtu, err)
	default: // only a passthru device is alone on its parent, and refuses so
		err = fmt.Errorf("%w (%w)", ErrBusy, err)
	}
	if err != nil {
		return fmt.Errorf("make %s %s on %s: %w", c.Kind, c.Name, c.Parent, vocabulary(err))
	}
	return nil
}

func macvlanMode(mode string) netlink.MacvlanMode {
	switch mode {
	case "private":
		return netlink.MACVLAN_MODE_PRIVATE
	case "vepa":
		return netlink.MACVLAN_MODE_VEPA
	case "passthru":
		return netlink.MACVLAN_MODE_PASSTHRU
	}
	return netlink.MACVLAN_MODE_BRIDGE
}

func ipvlanMode(mode string) netlink.IPVlanMode {
	switch mode {
	case "l3":
		return netlink.IPVLAN_MODE_L3
	case "l3s":
		return netlink.IPVLAN_MODE_L3S
	}
	return netlink.IPVLAN_MODE_L2
}

func ipvlanFlag(flag string) netlink.IPVlanFlag {
	switch flag {
	case "private":
		return netlink.IPVLAN_FLAG_PRIVATE
	case "vepa":
		return netlink.IPVLAN_FLAG_VEPA
	}
	return netlink.IPVLAN_FLAG_BRIDGE
}

// AttachChild makes the device inside the sandbox, with addresses and routes, and up.
// It returns the device's name there. What was made is removed again when it fails.
func (h *Host) AttachChild(a ChildAttachment) (ifname string, retErr error) {
	ns, err := h.openSandbox(a.Sandbox)
	if err != nil {
		return "", err
	}
	defer func() { retErr = errors.Join(retErr, ns.Close()) }()
	c := a.Child
	const most = 64 // interfaces of one kind in one container
	for i := range most {
		if a.Name == "" {
			c.Name = a.Prefix + strconv.Itoa(i)
		}
		if err = h.createChild(c, int(ns)); a.Name != "" || !errors.Is(err, ErrExists) {
			break
		}
	}
	if err != nil {
		return "", err
	}
	err = inside(ns, func() error { return h.configureChild(a, c.Name) })
	if err != nil {
		return "", fmt.Errorf("sandbox %s: %w", a.Sandbox, err)
	}
	return c.Name, nil
}

// configureChild runs inside the sandbox. When it fails it deletes the device, if netlink
// answers at all: without, the device stays down and has no address.
func (h *Host) configureChild(a ChildAttachment, ifname string) (retErr error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer nl.Close()
	link, err := nl.LinkByName(ifname)
	if err != nil {
		return fmt.Errorf("link %s: %w", ifname, vocabulary(err))
	}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, nl.LinkDel(link))
		}
	}()
	if err := nl.LinkSetAlias(link, a.Alias); err != nil {
		return fmt.Errorf("%s: set alias: %w", ifname, err)
	}
	// A passthru device is made with its parent's address, and gives it the one that it gets.
	if has := link.Attrs().HardwareAddr; a.MAC != nil && !bytes.Equal(has, a.MAC) {
		if err := nl.LinkSetHardwareAddr(link, a.MAC); err != nil {
			return fmt.Errorf("%s: set MAC address %s: %w", ifname, a.MAC, err)
		}
	}
	for _, s := range a.Sysctls {
		if err := h.proc.write(expand(s, ifname)); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	if a.Down {
		return addAddrs(nl, link, a.Addrs)
	}
	return bringUp(nl, link, ChildState{Addrs: a.Addrs, Routes: a.Routes, Silent: a.Silent, Hosts: a.Hosts})
}

// addAddrs adds addresses without waiting whether somebody else has them.
func addAddrs(nl *netlink.Handle, link netlink.Link, addrs []netip.Prefix) error {
	for _, p := range addrs {
		a := ipNet(p)
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := nl.AddrAdd(link, a); err != nil && !errors.Is(err, syscall.EEXIST) {
			return fmt.Errorf("%s: add address %s: %w", link.Attrs().Name, p, vocabulary(err))
		}
	}
	return nil
}

// bringUp addresses a device, sets it up, adds its ways out and tells the line.
func bringUp(nl *netlink.Handle, link netlink.Link, s ChildState) error {
	name := link.Attrs().Name
	if err := addAddrs(nl, link, s.Addrs); err != nil {
		return err
	}
	err := nl.LinkSetUp(link)
	if errors.Is(err, syscall.EADDRINUSE) {
		err = fmt.Errorf("another device of its parent, or the parent, has the MAC address %s: %w", link.Attrs().HardwareAddr, err)
	}
	if err != nil {
		return fmt.Errorf("%s: set up: %w", name, vocabulary(err))
	}
	if err := tellHosts(nl, link, s.Hosts); err != nil {
		return err
	}
	if err := addWaysOut(nl, link, s); err != nil || s.Silent {
		return err
	}
	return announce(link.Attrs().Index, link.Attrs().HardwareAddr, s.Addrs)
}

// addWaysOut adds default routes of the families that have none.
func addWaysOut(nl *netlink.Handle, link netlink.Link, s ChildState) error {
	if len(s.Gateways)+len(s.Routes) == 0 {
		return nil
	}
	routes, err := dump(func() ([]netlink.Route, error) { return nl.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	have := map[bool]bool{} // by "is IPv6"
	for _, r := range routes {
		if dst := netPrefix(r.Dst); dst.IsValid() && dst.Bits() == 0 {
			have[dst.Addr().Is6()] = true
		}
	}
	var add []*netlink.Route
	for _, gw := range s.Gateways {
		all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if gw.Is6() {
			all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		if !have[gw.Is6()] {
			add = append(add, &netlink.Route{LinkIndex: link.Attrs().Index, Dst: prefixNet(all), Gw: gw.AsSlice()})
		}
	}
	for _, p := range s.Routes {
		if !have[p.Addr().Is6()] {
			add = append(add, &netlink.Route{LinkIndex: link.Attrs().Index, Dst: prefixNet(p), Scope: netlink.SCOPE_LINK})
		}
	}
	for _, r := range add {
		if err := nl.RouteAdd(r); err != nil && !errors.Is(err, syscall.EEXIST) {
			return fmt.Errorf("%s: add route %s: %w", link.Attrs().Name, r, err)
		}
	}
	return nil
}

// retired is the alias of a device that waits for its deletion.
const retired = "weft: to be deleted"

// RetireChild takes the device of that alias in a sandbox out of service at once: it is
// down and has no address, and its alias is free. finish deletes it, which takes the
// kernel an RCU grace period of some 15 ms; it must be called once, from anywhere. A
// sandbox or a device that is gone is success.
func (h *Host) RetireChild(sandbox, alias string) (finish func() error, retErr error) {
	index := 0
	err := h.withChild(sandbox, alias, func(nl *netlink.Handle, l netlink.Link) error {
		index = l.Attrs().Index
		return retire(nl, l)
	})
	if errors.Is(err, ErrNotFound) {
		return func() error { return nil }, nil
	}
	if err != nil {
		return nil, err
	}
	ns, err := h.openSandbox(sandbox) // it lives until the device is deleted
	if errors.Is(err, ErrNotFound) {
		return func() error { return nil }, nil
	}
	if err != nil {
		return nil, err
	}
	return func() error {
		err := inside(ns, func() error { return deleteHere(index) })
		if errors.Is(err, ErrNotFound) {
			err = nil
		}
		return errors.Join(err, ns.Close())
	}, nil
}

// retire needs the addresses gone: others of the parent's ipvlan devices may get them. The
// alias goes last: whoever repeats what failed finds the device by it.
func retire(nl *netlink.Handle, l netlink.Link) error {
	name := l.Attrs().Name
	if err := nl.LinkSetDown(l); err != nil {
		return fmt.Errorf("%s: set down: %w", name, vocabulary(err))
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return nl.AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if err := nl.AddrDel(l, &a); err != nil && !errors.Is(err, syscall.EADDRNOTAVAIL) {
			return fmt.Errorf("%s: remove address %s: %w", name, a.IPNet, err)
		}
	}
	if err := nl.LinkSetAlias(l, retired); err != nil {
		return fmt.Errorf("%s: set alias: %w", name, vocabulary(err))
	}
	return nil
}

// DetachChild is RetireChild with the wait for the deletion.
func (h *Host) DetachChild(sandbox, alias string) error {
	finish, err := h.RetireChild(sandbox, alias)
	if err != nil {
		return err
	}
	return finish()
}

// ChildState is the fact that a child in a sandbox is up with its addresses and ways
// out, or down.
type ChildState struct {
	// Sandbox is the path of its network namespace, Alias that of [Child].
	Sandbox, Alias string
	// Down takes it down. It loses its routes, its IPv6 addresses and Hosts by that.
	Down bool
	// Addrs are its addresses; Gateways and Routes are for a family that has no default
	// route.
	Addrs    []netip.Prefix
	Gateways []netip.Addr
	Routes   []netip.Prefix
	// Silent and Hosts are those of [ChildAttachment].
	Silent bool
	Hosts  Hosts
}

// EnsureChild makes a child in a sandbox be up or down. A sandbox that is gone, or has
// no such device, is [ErrNotFound].
func (h *Host) EnsureChild(s ChildState) error {
	return h.withChild(s.Sandbox, s.Alias, func(nl *netlink.Handle, link netlink.Link) error {
		up := link.Attrs().Flags&net.FlagUp != 0
		switch {
		case s.Down && up:
			return nl.LinkSetDown(link)
		case s.Down || up:
			return nil
		}
		return bringUp(nl, link, s)
	})
}

// ParentOf returns the index of the device on which the one of that alias in a sandbox is.
// A sandbox that is gone, or has no such device, is [ErrNotFound].
func (h *Host) ParentOf(sandbox, alias string) (index int, err error) {
	err = h.withChild(sandbox, alias, func(_ *netlink.Handle, l netlink.Link) error {
		index = l.Attrs().ParentIndex
		return nil
	})
	return index, err
}

// withChild runs fn inside a sandbox with the device of that alias.
func (h *Host) withChild(sandbox, alias string, fn func(*netlink.Handle, netlink.Link) error) (retErr error) {
	ns, err := h.openSandbox(sandbox)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, ns.Close()) }()
	err = inside(ns, func() error {
		nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink: %w", err)
		}
		defer nl.Close()
		links, err := dump(nl.LinkList)
		if err != nil {
			return fmt.Errorf("list links: %w", err)
		}
		for _, l := range links {
			if l.Attrs().Alias == alias {
				return fn(nl, l)
			}
		}
		return fmt.Errorf("device %q: %w", alias, ErrNotFound)
	})
	if err != nil {
		return fmt.Errorf("sandbox %s: %w", sandbox, err)
	}
	return nil
}

// deleteHere deletes a device of the calling thread's namespace.
func deleteHere(index int) error {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer nl.Close()
	link, err := nl.LinkByIndex(index)
	if err == nil {
		err = nl.LinkDel(link)
	}
	return vocabulary(err)
}

package kernel

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// MaxVLAN is the largest tag of a VLAN; 4095 is reserved.
const MaxVLAN = 4094

// VLAN is the fact that a sub-interface exists, which carries the frames of one VLAN of
// the line below.
type VLAN struct {
	// Name is the device's, Parent that of the device below.
	Name, Parent string
	// Alias is the device's ifalias when it is made.
	Alias string
	// ID is the tag, of 802.1Q: 1 to [MaxVLAN].
	ID int
}

// EnsureVLAN makes the sub-interface exist, and be up if its parent is. It reports
// whether it was made by this call. A device of that name that is something else is
// [ErrExists], as is another sub-interface of that tag on that parent.
func (h *Host) EnsureVLAN(v VLAN) (made bool, err error) {
	parent, err := h.nl.LinkByName(v.Parent)
	if err != nil {
		return false, fmt.Errorf("sub-interface %s: parent %s: %w", v.Name, v.Parent, vocabulary(err))
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.Group = v.Name, parent.Attrs().Index, Group
	made, link, err := h.ensureLink(&netlink.Vlan{LinkAttrs: attrs, VlanId: v.ID, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}, v.Alias)
	if err != nil {
		return made, fmt.Errorf("sub-interface %s of %s: %w", v.Name, v.Parent, err)
	}
	if have := toLink(link); have.VLAN != v.ID || have.Provider || have.Parent != parent.Attrs().Index {
		return made, fmt.Errorf("sub-interface %s of %s with VLAN %d: another device of that name %w", v.Name, v.Parent, v.ID, ErrExists)
	}
	if parent.Attrs().Flags&net.FlagUp == 0 {
		return made, nil // it cannot be up
	}
	return made, h.setUp(link)
}

// EnsureDummy makes a device exist, and be up, that leads nowhere. It reports whether it
// was made by this call. A device of that name that is something else is [ErrExists].
func (h *Host) EnsureDummy(name, alias string) (made bool, err error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Group = name, Group
	made, link, err := h.ensureLink(&netlink.Dummy{LinkAttrs: attrs}, alias)
	if err != nil {
		return made, fmt.Errorf("dummy device %s: %w", name, err)
	}
	if link.Type() != "dummy" {
		return made, fmt.Errorf("dummy device %s: another device of that name %w", name, ErrExists)
	}
	return made, h.setUp(link)
}

// ensureLink makes a device unless its name is there, and returns what has the name.
func (h *Host) ensureLink(want netlink.Link, alias string) (made bool, have netlink.Link, err error) {
	name := want.Attrs().Name
	have, err = h.nl.LinkByName(name)
	if !errors.Is(vocabulary(err), ErrNotFound) {
		return false, have, vocabulary(err)
	}
	if err := h.nl.LinkAdd(want); err != nil {
		return false, nil, vocabulary(err)
	}
	if have, err = h.nl.LinkByName(name); err != nil {
		return true, nil, vocabulary(err)
	}
	if err := h.nl.LinkSetAlias(have, alias); err != nil {
		return true, have, errors.Join(fmt.Errorf("set alias: %w", err), h.DeleteLink(name))
	}
	return true, have, nil
}

func (h *Host) setUp(link netlink.Link) error {
	if link.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	if err := h.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("%s: set up: %w", link.Attrs().Name, err)
	}
	return nil
}

// Wireless reports whether a device of this namespace is a wireless one: those send
// frames of their own MAC address only.
func (h *Host) Wireless(name string) (bool, error) {
	sys, err := detached("sysfs")
	if err != nil {
		return false, err
	}
	defer sys.Close()
	var st unix.Stat_t
	switch err := unix.Fstatat(int(sys.Fd()), "class/net/"+name+"/phy80211", &st, 0); {
	case err == nil:
		return true, nil
	case errors.Is(err, os.ErrNotExist):
		return false, nil
	default:
		return false, fmt.Errorf("look whether %s is wireless: %w", name, err)
	}
}

// Supports is [Probe].
func (h *Host) Supports(kind string) error { return Probe(kind) }

// Probe says whether this kernel can make a kind of device ("vlan", "dummy", "macvlan",
// "ipvlan"): nil, [ErrNotSupported], or another error if that could not be found out. It
// tries in a namespace of its own.
func Probe(kind string) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread and its namespace end here
		done <- probe(kind)
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("try to make a device of kind %s: %w", kind, err)
	}
	return nil
}

func probe(kind string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("new network namespace: %w", err)
	}
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer nl.Close()
	below := netlink.NewLinkAttrs()
	below.Name = "below"
	if err := nl.LinkAdd(&netlink.Bridge{LinkAttrs: below}); err != nil {
		return fmt.Errorf("make a device to try on: %w", err)
	}
	parent, err := nl.LinkByName(below.Name)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = "probe", parent.Attrs().Index
	switch kind {
	case "vlan":
		err = nl.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: 1, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q})
	case "dummy":
		attrs.ParentIndex = 0
		err = nl.LinkAdd(&netlink.Dummy{LinkAttrs: attrs})
	case "vrf":
		attrs.ParentIndex = 0
		err = nl.LinkAdd(&netlink.Vrf{LinkAttrs: attrs, Table: 10})
	case string(Macvlan):
		err = nl.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE})
	case string(IPvlan):
		err = nl.LinkAdd(&netlink.IPVlan{LinkAttrs: attrs})
	default:
		return fmt.Errorf("%w: nobody knows how to try it", ErrInvalid)
	}
	return vocabulary(err)
}

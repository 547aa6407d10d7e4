package driver

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/weft-net/weft/internal/kernel"
)

// Bears reports whether a link is of the sort that weft makes for networks to rest on.
func Bears(l kernel.Link) bool { return l.VLAN != 0 || l.Kind == "dummy" }

// Lent says what somebody else has on a device that weft made for networks to rest on, "" if
// nothing: such a device is not weft's to delete. What the kernel puts there by itself counts
// for nothing, and what is in other namespaces does not show.
func (a Actual) Lent(l kernel.Link) string {
	if !Bears(l) {
		return ""
	}
	if master, ok := a.Index[l.Master]; ok {
		return fmt.Sprintf("it is a port of %s", master.Name)
	}
	for _, addr := range a.Addresses[l.Name] {
		ip := addr.Prefix.Addr()
		if ip.Is4() || !ip.IsLinkLocalUnicast() && !addr.Passing {
			return fmt.Sprintf("it has the address %s", addr.Prefix)
		}
	}
	for name, above := range a.Links {
		if above.Parent == l.Index && !Ours(above) {
			return fmt.Sprintf("the device %s is on it", name)
		}
	}
	return ""
}

// Held reports whether devices are on one that weft made for networks to rest on which this
// host does not show, as those that a built-in driver put in containers. Only the kernel
// knows: it makes no passthru device beside another one. While devices do show there is no
// telling what else is there: they would have to go first.
func Held(k interface{ TryChild(c kernel.Child) error }, a Actual, l kernel.Link) bool {
	if !Bears(l) {
		return false
	}
	for _, above := range a.Links {
		if above.Parent == l.Index {
			return true
		}
	}
	err := k.TryChild(kernel.Child{Kind: kernel.Macvlan, Name: PrefixPeer + "try-" + strconv.Itoa(l.Index), Parent: l.Name, Mode: "passthru"})
	return err != nil && !errors.Is(err, kernel.ErrNotSupported) && !errors.Is(err, kernel.ErrNotFound)
}

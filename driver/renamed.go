package driver

import (
	"slices"

	"github.com/weft-net/weft/internal/kernel"
)

// Renamed returns the sub-interface with the VLAN of a network on its parent, if it is not
// called as weft called it: the kernel has one such only, and containers may be on it.
func (a Actual) Renamed(n Network) (l kernel.Link, ok bool) {
	if n.VLAN == 0 || n.Adopted {
		return l, false
	}
	_, there := a.Links[n.Parent]
	for _, l := range a.Links {
		below := a.Index[l.Parent]
		on := below.Name == n.Parent || slices.Contains(below.AltNames, n.Parent) || !there && below.MAC.String() == n.ParentMAC
		if l.VLAN == n.VLAN && !l.Provider && l.Name != n.Device && on {
			return l, true
		}
	}
	return l, false
}

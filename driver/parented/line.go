package parented

import "github.com/weft-net/weft/driver"

// Line returns the device of the host's on whose line the containers of a network are
// machines, among others that may be no containers. It is "" if the network is not of this
// kind, has no parent, or if the host routes for its containers: then nobody asks the line
// for their addresses.
func (k *Kind) Line(n driver.Network) string {
	if n.Mode != string(k.sort.Kind) || n.Parent == "" || k.sort.Routed(n) {
		return ""
	}
	return n.Device
}

package namesync

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weft-net/weft/internal/engine"
)

// Bounds of what a container is called on a network. DNS has those of a name and of its
// labels, in octets. How many names there are weft bounds, because the engine does not: each
// record goes to every host, and the store takes no record of any size.
const (
	mostNames = 128
	nameLen   = 253
	labelLen  = 63
)

// shortID is how many digits the engine shortens an id to.
const shortID = 12

// namesOf are what a container is called on a network, and which of these names are left
// out. Its own name comes first, because it is what its addresses are known by.
func namesOf(c engine.Container, at engine.Attachment) (called, rest []string) {
	for _, name := range slices.Concat([]string{c.Name, c.ID[:min(shortID, len(c.ID))], c.Hostname}, at.Aliases) {
		switch {
		case name == "" || slices.Contains(called, name):
		case len(called) < mostNames && askable(name):
			called = append(called, name)
		default:
			rest = append(rest, name)
		}
	}
	return called, rest
}

// askable reports whether a question can have a name.
func askable(name string) bool {
	name = strings.TrimSuffix(name, ".")
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > labelLen {
			return false
		}
	}
	return len(name) <= nameLen
}

// leftOut says which names of a container count for nobody, and what to do.
func leftOut(c engine.Container, at engine.Attachment, rest []string) string {
	const shown = 40 // octets
	return fmt.Sprintf("%s: %d of its names on network %q are left out, the first is %.*q: weft takes %d names of a container, of up to %d octets, and %d between two dots: give it fewer or shorter ones (--network-alias) and start it again",
		who(c), len(rest), at.NetworkName, shown, rest[0], mostNames, nameLen, labelLen)
}

// who is a container for people.
func who(c engine.Container) string { return fmt.Sprintf("container %s (%.*s)", c.Name, shortID, c.ID) }

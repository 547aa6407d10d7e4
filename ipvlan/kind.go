package ipvlan

import (
	"cmp"
	"fmt"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/driver/parented"
	"github.com/weft-net/weft/internal/kernel"
)

// The built-in driver's options.
const (
	optMode = "ipvlan_mode"
	optFlag = "ipvlan_flag"
)

// Modes and flags of a network: how frames leave the host, and how containers of one
// parent reach each other.
const (
	modeL2  = "l2"
	modeL3  = "l3"
	modeL3S = "l3s"

	flagBridge  = "bridge"
	flagPrivate = "private"
	flagVEPA    = "vepa"
)

// A Kind makes ipvlan networks. [parented.Kind.Run] has to run.
type Kind struct{ *parented.Kind }

// New makes the kind.
func New(cfg parented.Config) *Kind {
	return &Kind{parented.New(cfg, parented.Sort{
		Kind: kernel.IPvlan,
		Options: []driver.Option{
			{Name: optMode, Check: parented.Choice("ipvlan mode", "'l2' mode is the ipvlan driver default", modeL2, modeL3, modeL3S), Help: "l2, l3 or l3s (l2)"},
			{Name: optFlag, Check: parented.Choice("ipvlan flag", "'bridge' is the ipvlan driver default", flagBridge, flagPrivate, flagVEPA), Help: "bridge, private or vepa (bridge)"},
		},
		Style:  style,
		Clash:  clash,
		Access: access,
		Alone:  func(driver.Network) bool { return false },
		Routed: routed,
	})}
}

// style is what a network's options say, which have passed their checks.
func style(o map[string]string) (mode, flag string) {
	return cmp.Or(o[optMode], modeL2), cmp.Or(o[optFlag], flagBridge)
}

func routed(n driver.Network) bool {
	mode, _ := style(n.Options)
	return mode != modeL2
}

// access refuses the host where containers are kept from each other: it is one more.
func access(n driver.Network) error {
	_, flag := style(n.Options)
	if flag == flagBridge {
		return nil
	}
	return driver.WithHint(fmt.Errorf("%w: %s=true needs %s=%s, and the network has %s: what is on the parent is kept apart there, the host as well", driver.ErrOption,
		parented.OptAccess, optFlag, flagBridge, flag), "leave %s out, or use -o %s=%s", parented.OptAccess, optFlag, flagBridge)
}

// clash refuses a network that would change the other one: mode and flag are those of the
// parent, not of a device on it.
func clash(n, other driver.Network) error {
	mode, flag := style(n.Options)
	theirMode, theirFlag := style(other.Options)
	if mode == theirMode && flag == theirFlag {
		return nil
	}
	return driver.WithHint(fmt.Errorf("%w: network %.12s is already using parent interface %s with %s=%s and %s=%s, which are the same for all networks of one parent", driver.ErrConflict,
		other.ID, other.Device, optMode, theirMode, optFlag, theirFlag), "use the same, or another -o %s", parented.OptParent)
}

package macvlan

import (
	"cmp"
	"fmt"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/driver/parented"
	"github.com/weft-net/weft/internal/kernel"
)

// optMode is the built-in driver's option.
const optMode = "macvlan_mode"

// Modes of a network. In bridge mode containers of one parent reach each other, in private
// mode they do not, in vepa mode the switch sends their frames back; passthru gives the
// parent to one container.
const (
	modeBridge   = "bridge"
	modePrivate  = "private"
	modeVEPA     = "vepa"
	modePassthru = "passthru"
)

// A Kind makes macvlan networks. [parented.Kind.Run] has to run.
type Kind struct{ *parented.Kind }

// New makes the kind.
func New(cfg parented.Config) *Kind {
	return &Kind{parented.New(cfg, parented.Sort{
		Kind: kernel.Macvlan,
		Options: []driver.Option{{
			Name: optMode, Check: parented.Choice("macvlan mode", "'bridge' mode is the macvlan driver default", modeBridge, modePrivate, modeVEPA, modePassthru),
			Help: "bridge, private, vepa or passthru (bridge)",
		}},
		Style:  func(o map[string]string) (mode, flag string) { return modeOf(o), "" },
		Clash:  clash,
		Access: access,
		OwnMAC: true,
		Alone:  passthru,
		Routed: func(driver.Network) bool { return false },
	})}
}

// modeOf is the mode of a network's options, which have passed their checks.
func modeOf(o map[string]string) string { return cmp.Or(o[optMode], modeBridge) }

func passthru(n driver.Network) bool { return modeOf(n.Options) == modePassthru }

// access refuses the host where containers are kept from each other: it is one more.
func access(n driver.Network) error {
	if modeOf(n.Options) == modeBridge {
		return nil
	}
	return driver.WithHint(fmt.Errorf("%w: %s=true needs %s=%s, and the network has %s: what is on the parent is kept apart there, the host as well", driver.ErrOption,
		parented.OptAccess, optMode, modeBridge, modeOf(n.Options)), "leave %s out, or use -o %s=%s", parented.OptAccess, optMode, modeBridge)
}

// clash refuses a second network on the parent of one in passthru mode.
func clash(n, other driver.Network) error {
	if !passthru(n) && !passthru(other) {
		return nil
	}
	return driver.WithHint(fmt.Errorf("%w: cannot use mode %s, macvlan network %.12s is already using parent interface %s", driver.ErrConflict, modePassthru, other.ID, other.Device),
		"choose another mode, or another -o %s", parented.OptParent)
}

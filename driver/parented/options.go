package parented

import (
	"cmp"
	"fmt"
	"strconv"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/driver/accord"
)

// Options that both kinds take.
const (
	OptParent = "parent"
	OptVLAN   = "vlan"
	OptAccess = "host_access"
)

// Options lists what a network of the kind takes.
func (k *Kind) Options() []driver.Option {
	out := []driver.Option{
		{Name: OptParent, Check: CheckParent, Help: "device of the host's, eth0.100 for a VLAN of eth0; a list, route:SUBNET or mac:ADDRESS where hosts differ"},
		{Name: OptVLAN, Check: CheckVLAN, Help: "VLAN of the parent, as a number"},
		{Name: OptAccess, Check: driver.Bool, Help: "host and containers reach each other (false)"},
		accord.Option(),
	}
	return append(append(out, k.sort.Options...), driver.InterfaceOptions()...)
}

// settings are the options of one network, typed; they have passed their checks.
type settings struct {
	parent string
	vlan   int
	mtu    int
	prefix string
	attach driver.Attach
	access bool
}

func parse(o map[string]string) settings {
	s := settings{parent: o[OptParent], prefix: cmp.Or(o[driver.OptPrefix], driver.EnginePrefix),
		attach: cmp.Or(driver.Attach(o[driver.OptAttach]), driver.AttachDocker)}
	s.vlan, _ = strconv.Atoi(o[OptVLAN]) // checked; empty is 0
	s.mtu, _ = strconv.Atoi(o[driver.OptMTU])
	s.access, _ = driver.ParseBool(o[OptAccess]) // empty is false
	return s
}

// Choice makes a check for an option with a closed list of values. It refuses others in
// the built-in driver's words: what is requested, and which one is the default. An empty
// value is the default.
func Choice(requested, isDefault string, values ...string) func(string) error {
	return func(v string) error {
		if err := driver.OneOf(values...)(v); err != nil && v != "" {
			return fmt.Errorf("requested %s '%s' is not valid, %s: %w", requested, v, isDefault, err)
		}
		return nil
	}
}

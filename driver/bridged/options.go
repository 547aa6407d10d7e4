package bridged

import (
	"cmp"
	"net/netip"
	"strconv"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/firewall"
)

// Options that every kind on a bridge takes, and values of them.
const (
	OptMTU     = driver.OptMTU
	OptPublish = "publish"

	// PublishDocker lets the engine publish ports, PublishNative weft.
	PublishDocker = "docker"
	PublishNative = "native"
)

// Settings are what a kind's options say about the endpoints of a network.
type Settings struct {
	ICC, Masquerade bool
	Mode4, Mode6    firewall.Mode
	Binding4        netip.Addr // of ports published without one; zero: every address
	Binding6        netip.Addr
	Trusted         []string   // interfaces that may reach container ports directly
	MTU             int        // 0: the kernel's default
	Prefix          string     // of the interface's name in containers
	Host4, Host6    netip.Addr // source address instead of masquerade
	Attach          driver.Attach
	Publish         string
}

// Options lists what every kind on a bridge takes.
func Options() []driver.Option {
	return append(driver.InterfaceOptions(),
		driver.Option{Name: OptPublish, Check: driver.OneOf(PublishDocker, PublishNative), Help: "who publishes ports (docker)"})
}

// Parse types the options of this package, which have passed their checks; the rest
// of Settings is as an ordinary network has it.
func Parse(o map[string]string) Settings {
	s := Settings{
		ICC: true, Masquerade: true, Prefix: cmp.Or(o[driver.OptPrefix], driver.EnginePrefix),
		Attach: cmp.Or(driver.Attach(o[driver.OptAttach]), driver.AttachDocker), Publish: cmp.Or(o[OptPublish], PublishDocker),
	}
	s.MTU, _ = strconv.Atoi(o[OptMTU]) // checked; empty is 0
	return s
}

package bridged

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/firewall"
)

// Options that every kind on a bridge takes, and values of them.
const (
	OptMTU     = "com.docker.network.driver.mtu"
	OptPrefix  = "com.docker.network.container_iface_prefix"
	OptAttach  = "attach"
	OptPublish = "publish"

	// PublishDocker lets the engine publish ports, PublishNative weft.
	PublishDocker = "docker"
	PublishNative = "native"
)

const (
	optIfname     = "com.docker.network.endpoint.ifname"
	optSysctls    = "com.docker.network.endpoint.sysctls"
	defaultPrefix = "eth"
	directPrefix  = "weft"
	smallestMTU   = 68   // RFC 791
	smallestMTUv6 = 1280 // RFC 8200
	largestMTU    = 65535
	longestPrefix = 12 // leaves three digits for the engine's number
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
	return []driver.Option{
		{Name: OptMTU, Check: mtu, Help: "MTU in bytes"},
		{Name: OptPrefix, Check: prefix, Help: "start of the interface's name in containers (eth)"},
		{Name: OptAttach, Check: driver.OneOf(string(driver.AttachDocker), string(driver.AttachDirect)), Help: "who puts the link into the container (docker)"},
		{Name: OptPublish, Check: driver.OneOf(PublishDocker, PublishNative), Help: "who publishes ports (docker)"},
	}
}

// Parse types the options of this package, which have passed their checks; the rest
// of Settings is as an ordinary network has it.
func Parse(o map[string]string) Settings {
	s := Settings{
		ICC: true, Masquerade: true, Prefix: cmp.Or(o[OptPrefix], defaultPrefix),
		Attach: cmp.Or(driver.Attach(o[OptAttach]), driver.AttachDocker), Publish: cmp.Or(o[OptPublish], PublishDocker),
	}
	s.MTU, _ = strconv.Atoi(o[OptMTU]) // checked; empty is 0
	return s
}

// CheckMTU refuses an MTU that is too small for IPv6.
func CheckMTU(n driver.Network, mtu int) error {
	if mtu != 0 && mtu < smallestMTUv6 && len(n.IPv6) > 0 {
		return fmt.Errorf("%w: %s=%q: invalid MTU number: IPv6 needs at least %d", driver.ErrOption, OptMTU, n.Options[OptMTU], smallestMTUv6)
	}
	return nil
}

func mtu(v string) error {
	n, err := strconv.Atoi(v)
	if err != nil || n != 0 && (n < smallestMTU || n > largestMTU) {
		return fmt.Errorf("invalid MTU number: use %d to %d, or 0 for the default", smallestMTU, largestMTU)
	}
	return nil
}

func prefix(v string) error {
	if len(v) > longestPrefix {
		return fmt.Errorf("it has %d bytes, at most %d leave room for the number", len(v), longestPrefix)
	}
	return driver.InterfaceName(v)
}

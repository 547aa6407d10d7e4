package driver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/weft-net/weft/internal/kernel"
)

// Options about the interface in a container, which networks of every mode take.
const (
	OptMTU    = "com.docker.network.driver.mtu"
	OptPrefix = "com.docker.network.container_iface_prefix"
	OptAttach = "attach"
)

// Options of an endpoint.
const (
	OptIfname  = "com.docker.network.endpoint.ifname"
	OptSysctls = "com.docker.network.endpoint.sysctls"
)

// Starts of the names of interfaces in containers: of those that the engine names, and
// of those that weft makes there itself.
const (
	EnginePrefix = "eth"
	DirectPrefix = "weft"
)

// Bounds of an MTU.
const (
	smallestMTU = 68 // RFC 791
	// SmallestMTUv6 is what IPv6 needs (RFC 8200).
	SmallestMTUv6 = 1280
	largestMTU    = 65535
	longestPrefix = 12 // leaves three digits for the engine's number
)

// InterfaceOptions lists them with their checks.
func InterfaceOptions() []Option {
	return []Option{
		{Name: OptMTU, Check: checkMTU, Help: "MTU in bytes"},
		{Name: OptPrefix, Check: checkPrefix, Help: "start of the interface's name in containers (eth)"},
		{Name: OptAttach, Check: OneOf(string(AttachDocker), string(AttachDirect)), Help: "who puts the link into the container (docker)"},
	}
}

// CheckMTU refuses an MTU that is too small for IPv6.
func CheckMTU(n Network, mtu int) error {
	if mtu != 0 && mtu < SmallestMTUv6 && len(n.IPv6) > 0 {
		return fmt.Errorf("%w: %s=%q: invalid MTU number: IPv6 needs at least %d", ErrOption, OptMTU, n.Options[OptMTU], SmallestMTUv6)
	}
	return nil
}

func checkMTU(v string) error {
	n, err := strconv.Atoi(v)
	if err != nil || n != 0 && (n < smallestMTU || n > largestMTU) {
		return fmt.Errorf("invalid MTU number: use %d to %d, or 0 for the default", smallestMTU, largestMTU)
	}
	return nil
}

func checkPrefix(v string) error {
	if len(v) > longestPrefix {
		return fmt.Errorf("it has %d bytes, at most %d leave room for the number", len(v), longestPrefix)
	}
	return InterfaceName(v)
}

// EndpointMAC is the MAC address of an endpoint for which nobody chose one.
func EndpointMAC(seed string, ep Endpoint) net.HardwareAddr {
	switch {
	case ep.IPv4.IsValid():
		return MAC(seed, ep.IPv4.Addr())
	case ep.IPv6.IsValid():
		return MAC(seed, ep.IPv6.Addr())
	}
	return MAC(seed+ep.ID, netip.Addr{})
}

// CheckInterface refuses settings of an endpoint's interface that no link of weft's can
// have. direct says whether the network attaches its endpoints directly.
func CheckInterface(ep Endpoint, direct bool) error {
	if ep.MAC != "" {
		mac, err := net.ParseMAC(ep.MAC)
		if err == nil && (len(mac) != 6 || mac[0]&1 != 0) {
			err = errors.New("it is not the address of one Ethernet interface (the first byte must be even)")
		}
		if err != nil {
			return fmt.Errorf("%w: MAC address %q: %w", ErrOption, ep.MAC, err)
		}
	}
	if _, err := Sysctls(ep); err != nil {
		return err
	}
	if name := ep.DriverOpts[OptIfname]; name != "" && !direct {
		return WithHint(fmt.Errorf("%w: %s=%q: the engine names the interfaces that it moves", ErrOption, OptIfname, name),
			"create the network with -o attach=direct, or set -o %s", OptPrefix)
	}
	return nil
}

// Sysctls types the settings of an endpoint's interface; IFNAME stands for its name.
func Sysctls(ep Endpoint) ([]kernel.Sysctl, error) {
	text := ep.DriverOpts[OptSysctls]
	if text == "" {
		return nil, nil
	}
	var out []kernel.Sysctl
	for item := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(item, "=")
		// `docker run --network name=…,driver-opt=…` puts all of it in small letters.
		key = strings.Replace(key, ".ifname.", ".IFNAME.", 1)
		if !ok || !strings.HasPrefix(key, "net.") || !strings.Contains(key, ".IFNAME.") || strings.Contains(key, "/") {
			return nil, fmt.Errorf("%w: %s: %q: use net.ipv4.conf.IFNAME.name=value, comma-separated", ErrOption, OptSysctls, item)
		}
		out = append(out, kernel.Sysctl{Key: key, Value: value})
	}
	return out, nil
}

// DirectSysctls are the settings of an interface that weft makes in the container: those
// that the user wants, after what the engine would set.
func DirectSysctls(ep Endpoint) ([]kernel.Sysctl, error) {
	out, err := Sysctls(ep)
	if err == nil && !ep.IPv6.IsValid() {
		out = append([]kernel.Sysctl{{Key: "net.ipv6.conf.IFNAME.disable_ipv6", Value: "1"}}, out...)
	}
	return out, err
}

// A Placement is what decides who puts the links of a network's endpoints into their
// sandboxes.
type Placement struct {
	// Wanted is the network's setting, Prefix how it calls its interfaces.
	Wanted Attach
	Prefix string
	// Safe says whether the engine bears attach=direct, and if not, why.
	Safe func() (ok bool, why string)
	// ByEngine says that the engine publishes the endpoint's ports.
	ByEngine bool
	// Exists says whether a sandbox is there.
	Exists func(path string) bool
}

// Of decides for one endpoint, and says why a wanted attach=direct is not used.
func (p Placement) Of(ep Endpoint) (attach Attach, why string) {
	if p.Wanted != AttachDirect {
		return AttachDocker, ""
	}
	name := ep.DriverOpts[OptIfname]
	switch ok, why := p.Safe(); {
	case !ok:
		return AttachDocker, why
	case p.ByEngine:
		return AttachDocker, "the engine publishes its ports (publish=docker)"
	case p.Prefix != EnginePrefix:
		return AttachDocker, "the network names its interfaces (" + OptPrefix + ")"
	case strings.HasPrefix(name, EnginePrefix):
		return AttachDocker, "the engine's next interface could be called " + name
	case !p.Exists(ep.Sandbox):
		return AttachDocker, "the sandbox was not there yet (engine before 28)"
	}
	return AttachDirect, ""
}

// CheckIfname refuses a wanted name of an interface that the engine is going to name.
func CheckIfname(ep Endpoint) error {
	name := ep.DriverOpts[OptIfname]
	if name == "" || ep.Attach != AttachDocker {
		return nil
	}
	return WithHint(fmt.Errorf("%w: %s=%q: attach=direct is not used here: %s", ErrOption, OptIfname, name, ep.AttachWhy), "leave the name out")
}

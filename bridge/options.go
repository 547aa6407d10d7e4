package bridge

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/firewall"
)

// Names of the options, the built-in driver's first.
const (
	optName       = "com.docker.network.bridge.name"
	optICC        = "com.docker.network.bridge.enable_icc"
	optMasquerade = "com.docker.network.bridge.enable_ip_masquerade"
	optMode4      = "com.docker.network.bridge.gateway_mode_ipv4"
	optMode6      = "com.docker.network.bridge.gateway_mode_ipv6"
	optBinding4   = "com.docker.network.bridge.host_binding_ipv4"
	optBinding6   = "com.docker.network.bridge.host_binding_ipv6"
	optInhibit4   = "com.docker.network.bridge.inhibit_ipv4"
	optDefault    = "com.docker.network.bridge.default_bridge"
	optTrusted    = "com.docker.network.bridge.trusted_host_interfaces"
	optMTU        = "com.docker.network.driver.mtu"
	optPrefix     = "com.docker.network.container_iface_prefix"
	optHost4      = "com.docker.network.host_ipv4"
	optHost6      = "com.docker.network.host_ipv6"
	optAttach     = "attach"
	optPublish    = "publish"
	publishDocker = "docker"
	publishNative = "native"
	defaultPrefix = "eth"
	directPrefix  = "weft"
	optIfname     = "com.docker.network.endpoint.ifname"
	optSysctls    = "com.docker.network.endpoint.sysctls"
	smallestMTU   = 68   // RFC 791
	smallestMTUv6 = 1280 // RFC 8200
	largestMTU    = 65535
	longestPrefix = 12 // leaves three digits for the engine's number
)

// Settings are the options of one network, typed.
type Settings struct {
	Name            string
	ICC, Masquerade bool
	Mode4, Mode6    firewall.Mode
	Binding4        netip.Addr // zero: every address
	Binding6        netip.Addr
	InhibitIPv4     bool
	Trusted         []string
	MTU             int // 0: the kernel's default
	Prefix          string
	Host4, Host6    netip.Addr // source address instead of masquerade
	Attach          driver.Attach
	Publish         string
}

// Options lists what a bridge network takes.
func (k *Kind) Options() []driver.Option {
	mode := driver.OneOf("nat", "nat-unprotected", "routed", "isolated")
	return []driver.Option{
		{Name: optName, Check: driver.InterfaceName, Help: "name of the bridge; an existing one is adopted and kept"},
		{Name: optICC, Check: driver.Bool, Help: "containers of the network reach each other (true)"},
		{Name: optMasquerade, Check: driver.Bool, Help: "hide containers behind the host's address (true)"},
		{Name: optMode4, Check: mode, Help: "nat, nat-unprotected, routed or isolated"},
		{Name: optMode6, Check: mode, Help: "nat, nat-unprotected, routed or isolated"},
		{Name: optBinding4, Check: address(netip.Addr.Is4), Help: "host address of ports published without one"},
		{Name: optBinding6, Check: address(netip.Addr.Is6), Help: "host address of ports published without one"},
		{Name: optInhibit4, Check: driver.Bool, Help: "give the bridge no IPv4 address (false)"},
		{Name: optDefault, Check: driver.OneOf("false"), Help: "only the engine's own bridge can be the default one"},
		{Name: optTrusted, Check: interfaces, Help: "host interfaces, colon-separated, that may reach published container ports directly"},
		{Name: optMTU, Check: mtu, Help: "MTU in bytes"},
		{Name: optPrefix, Check: prefix, Help: "start of the interface's name in containers (eth)"},
		{Name: optHost4, Check: address(netip.Addr.Is4), Help: "source address of containers instead of the uplink's"},
		{Name: optHost6, Check: address(netip.Addr.Is6), Help: "source address of containers instead of the uplink's"},
		{Name: optAttach, Check: driver.OneOf(string(driver.AttachDocker), string(driver.AttachDirect)), Help: "who puts the link into the container (docker)"},
		{Name: optPublish, Check: driver.OneOf(publishDocker, publishNative), Help: "who publishes ports (docker)"},
	}
}

func address(fits func(netip.Addr) bool) func(string) error {
	return func(v string) error {
		a, err := netip.ParseAddr(v)
		if err != nil || !fits(a) {
			return fmt.Errorf("it is not an address of that family")
		}
		return nil
	}
}

func interfaces(v string) error {
	for name := range strings.SplitSeq(v, ":") {
		if err := driver.InterfaceName(name); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
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

// parse types options that have passed their checks.
func parse(o map[string]string) Settings {
	flag := func(key string, fallback bool) bool {
		if v, err := driver.ParseBool(o[key]); err == nil {
			return v
		}
		return fallback
	}
	addr := func(key string) netip.Addr {
		a, err := netip.ParseAddr(o[key])
		if err != nil {
			return netip.Addr{}
		}
		return a
	}
	s := Settings{
		Name: o[optName], ICC: flag(optICC, true), Masquerade: flag(optMasquerade, true),
		Mode4: gatewayMode(o[optMode4]), Mode6: gatewayMode(o[optMode6]),
		Binding4: addr(optBinding4), Binding6: addr(optBinding6), InhibitIPv4: flag(optInhibit4, false),
		Prefix: o[optPrefix], Host4: addr(optHost4), Host6: addr(optHost6),
		Attach: driver.Attach(o[optAttach]), Publish: o[optPublish],
	}
	s.MTU, _ = strconv.Atoi(o[optMTU]) // checked; empty is 0
	if v := o[optTrusted]; v != "" {
		s.Trusted = strings.Split(v, ":")
	}
	if s.Prefix == "" {
		s.Prefix = defaultPrefix
	}
	if s.Attach == "" {
		s.Attach = driver.AttachDocker
	}
	if s.Publish == "" {
		s.Publish = publishDocker
		if nativeOnly(o) != "" {
			s.Publish = publishNative
		}
	}
	return s
}

func gatewayMode(v string) firewall.Mode {
	switch v {
	case "nat-unprotected":
		return firewall.ModeNATUnprotected
	case "routed":
		return firewall.ModeRouted
	case "isolated":
		return firewall.ModeIsolated
	}
	return firewall.ModeNAT
}

// nativeOnly is the first option that the engine's own publishing cannot
// honour, or "".
func nativeOnly(o map[string]string) string {
	for _, key := range []string{optMode4, optMode6} {
		if v := o[key]; v != "" && v != "nat" {
			return key
		}
	}
	for _, key := range []string{optBinding4, optBinding6, optHost4, optHost6, optTrusted} {
		if o[key] != "" {
			return key
		}
	}
	return ""
}

// check refuses combinations.
func check(n driver.Network, s Settings) error {
	option := func(key, format string, args ...any) error {
		return fmt.Errorf("%w: %s=%q: %w", driver.ErrOption, key, n.Options[key], fmt.Errorf(format, args...))
	}
	if key := nativeOnly(n.Options); key != "" && s.Publish == publishDocker {
		return driver.WithHint(option(key, "the engine cannot publish ports that way"), "use -o publish=native, or leave publish out")
	}
	for key, mode := range map[string]firewall.Mode{optMode4: s.Mode4, optMode6: s.Mode6} {
		if mode == firewall.ModeIsolated && !n.Internal {
			return option(key, "gateway mode 'isolated' can only be used for an internal network: add --internal")
		}
	}
	if s.MTU != 0 && s.MTU < smallestMTUv6 && len(n.IPv6) > 0 {
		return option(optMTU, "invalid MTU number: IPv6 needs at least %d", smallestMTUv6)
	}
	if len(n.IPv4) > 1 || len(n.IPv6) > 1 {
		return fmt.Errorf("%w: bridge networks don't support multiple subnets: give one --subnet for each family", driver.ErrOption)
	}
	return nil
}

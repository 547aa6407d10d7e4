package bridge

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/driver/bridged"
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
	optHost4      = "com.docker.network.host_ipv4"
	optHost6      = "com.docker.network.host_ipv6"
)

// Settings are the options of one network, typed.
type Settings struct {
	bridged.Settings
	Name        string
	InhibitIPv4 bool
}

// Options lists what a bridge network takes.
func (k *Kind) Options() []driver.Option {
	mode := driver.OneOf("nat", "nat-unprotected", "routed", "isolated")
	return append([]driver.Option{
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
		{Name: optHost4, Check: address(netip.Addr.Is4), Help: "source address of containers instead of the uplink's"},
		{Name: optHost6, Check: address(netip.Addr.Is6), Help: "source address of containers instead of the uplink's"},
	}, bridged.Options()...)
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
	s := Settings{Settings: bridged.Parse(o), Name: o[optName], InhibitIPv4: flag(optInhibit4, false)}
	s.ICC, s.Masquerade = flag(optICC, true), flag(optMasquerade, true)
	s.Mode4, s.Mode6 = gatewayMode(o[optMode4]), gatewayMode(o[optMode6])
	s.Binding4, s.Binding6, s.Host4, s.Host6 = addr(optBinding4), addr(optBinding6), addr(optHost4), addr(optHost6)
	if v := o[optTrusted]; v != "" {
		s.Trusted = strings.Split(v, ":")
	}
	if o[bridged.OptPublish] == "" && nativeOnly(o) != "" {
		s.Publish = bridged.PublishNative
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
	if key := nativeOnly(n.Options); key != "" && s.Publish == bridged.PublishDocker {
		return driver.WithHint(option(key, "the engine cannot publish ports that way"), "use -o publish=native, or leave publish out")
	}
	for key, mode := range map[string]firewall.Mode{optMode4: s.Mode4, optMode6: s.Mode6} {
		if mode == firewall.ModeIsolated && !n.Internal {
			return option(key, "gateway mode 'isolated' can only be used for an internal network: add --internal")
		}
	}
	if err := driver.CheckMTU(n, s.MTU); err != nil {
		return err
	}
	if len(n.IPv4) > 1 || len(n.IPv6) > 1 {
		return fmt.Errorf("%w: bridge networks don't support multiple subnets: give one --subnet for each family", driver.ErrOption)
	}
	return nil
}

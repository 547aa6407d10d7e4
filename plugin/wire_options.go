package plugin

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/netip"
)

// Keys of the Options of NetworkDriver calls. OptMAC is a key of
// [RequestAddressRequest].Options as well, there with a MAC address as text.
const (
	OptGeneric      = "com.docker.network.generic"
	OptEnableIPv4   = "com.docker.network.enable_ipv4"
	OptEnableIPv6   = "com.docker.network.enable_ipv6"
	OptInternal     = "com.docker.network.internal"
	OptPortMap      = "com.docker.network.portmap"
	OptExposedPorts = "com.docker.network.endpoint.exposedports"
	OptMAC          = "com.docker.network.endpoint.macaddress"
	OptDNSServers   = "com.docker.network.endpoint.dnsservers"
	OptNoProxy6To4  = "com.docker.network.driver.private.no_proxy_6to4"
)

// NetworkOptions are the Options of CreateNetwork and GwAllocCheck.
type NetworkOptions struct {
	// Generic holds the user's -o settings and the daemon's defaults for the
	// driver; never nil after decoding. Numbers and booleans are in JSON's text.
	Generic map[string]string
	// EnableIPv4 is true if the engine did not send it, as engines before 28.0 do.
	EnableIPv4 bool
	EnableIPv6 bool
	// Internal is --internal.
	Internal bool
	// Other holds what this package does not know; nil if there is nothing.
	Other map[string]json.RawMessage
}

// UnmarshalJSON decodes and checks the options as the engine sends them; null
// stands for no options.
func (o *NetworkOptions) UnmarshalJSON(data []byte) error {
	decoded, err := decodeNetworkOptions(data)
	if err == nil {
		*o = decoded
	}
	return err
}

// decodeNetworkOptions is UnmarshalJSON that also takes an absent value.
func decodeNetworkOptions(data []byte) (NetworkOptions, error) {
	o := NetworkOptions{Generic: map[string]string{}, EnableIPv4: true}
	rest, err := splitOptions(data)
	if err != nil {
		return NetworkOptions{}, err
	}
	generic, err := decodeStrings(rest[OptGeneric])
	if err != nil {
		return NetworkOptions{}, under(optionField(OptGeneric), err)
	}
	if generic != nil {
		o.Generic = generic
	}
	delete(rest, OptGeneric)
	flags := []struct {
		key  string
		into *bool
	}{{OptEnableIPv4, &o.EnableIPv4}, {OptEnableIPv6, &o.EnableIPv6}, {OptInternal, &o.Internal}}
	for _, f := range flags {
		if err := take(rest, f.key, f.into); err != nil {
			return NetworkOptions{}, err
		}
	}
	o.Other = leftover(rest)
	return o, nil
}

// MarshalJSON encodes the options as an engine from 28.0 would.
func (o NetworkOptions) MarshalJSON() ([]byte, error) {
	out := toAny(o.Other)
	out[OptGeneric] = o.Generic
	out[OptEnableIPv4] = o.EnableIPv4
	out[OptEnableIPv6] = o.EnableIPv6
	if o.Internal {
		out[OptInternal] = true
	}
	return json.Marshal(out)
}

// PortBinding is one published port.
type PortBinding struct {
	// Proto is the protocol's number: 6 TCP, 17 UDP, 132 SCTP.
	Proto uint8
	// IP is the container's address; zero if unset, as the engine leaves it.
	IP netip.Addr
	// Port is the container's port.
	Port uint16
	// HostIP is the address to bind; zero for all.
	HostIP netip.Addr
	// HostPort is the first host port to try; 0 for any.
	HostPort uint16
	// HostPortEnd is the last one; 0 if unset, otherwise not below HostPort.
	HostPortEnd uint16
}

// UnmarshalJSON decodes and checks a binding as the engine sends it.
func (b *PortBinding) UnmarshalJSON(data []byte) error {
	var raw struct {
		Proto                       uint8
		IP, HostIP                  string
		Port, HostPort, HostPortEnd uint16
	}
	if err := decodeInto(data, &raw); err != nil {
		return err
	}
	ip, err := parseAddr("IP", raw.IP)
	if err != nil {
		return err
	}
	hostIP, err := parseAddr("HostIP", raw.HostIP)
	if err != nil {
		return err
	}
	if raw.HostPortEnd != 0 && raw.HostPortEnd < raw.HostPort {
		return &FieldError{Field: "HostPortEnd", Value: fmt.Sprint(raw.HostPortEnd), Want: fmt.Sprintf("a port from HostPort (%d) on", raw.HostPort)}
	}
	*b = PortBinding{Proto: raw.Proto, IP: ip, Port: raw.Port, HostIP: hostIP, HostPort: raw.HostPort, HostPortEnd: raw.HostPortEnd}
	return nil
}

// ExposedPort is a port that the image or the user declared.
type ExposedPort struct {
	// Proto is the protocol's number: 6 TCP, 17 UDP, 132 SCTP.
	Proto uint8
	Port  uint16
}

// EndpointOptions are the Options of CreateEndpoint.
type EndpointOptions struct {
	// PortMap holds the published ports. It is nil if absent: on internal
	// networks, or when an earlier endpoint of the container publishes.
	PortMap []PortBinding
	// ExposedPorts is nil if absent.
	ExposedPorts []ExposedPort
	// MAC is the user's --mac-address, which Interface.MACAddress repeats; nil if
	// absent.
	MAC net.HardwareAddr
	// DNSServers are the container's resolvers, as sent; nil if absent.
	DNSServers []string
	// DriverOpts are the user's --driver-opt settings and other text options of
	// the engine (sysctls, ifname); nil if there are none.
	DriverOpts map[string]string
	// Other holds what this package does not know; nil if there is nothing.
	Other map[string]json.RawMessage
}

// UnmarshalJSON decodes and checks the options as the engine sends them; null
// stands for no options.
func (o *EndpointOptions) UnmarshalJSON(data []byte) error {
	rest, err := splitOptions(data)
	if err != nil {
		return err
	}
	var d EndpointOptions
	if d.PortMap, d.ExposedPorts, err = takePorts(rest); err != nil {
		return err
	}
	if d.MAC, err = takeMAC(rest); err != nil {
		return err
	}
	if err := take(rest, OptDNSServers, &d.DNSServers); err != nil {
		return err
	}
	for key, value := range rest {
		if value[0] != '"' {
			continue
		}
		var text string
		if err := take(rest, key, &text); err != nil {
			return err
		}
		if d.DriverOpts == nil {
			d.DriverOpts = map[string]string{}
		}
		d.DriverOpts[key] = text
	}
	d.Other = leftover(rest)
	*o = d
	return nil
}

// MarshalJSON encodes the options as the engine would.
func (o EndpointOptions) MarshalJSON() ([]byte, error) {
	out := toAny(o.Other)
	for key, value := range o.DriverOpts {
		out[key] = value
	}
	putPorts(out, o.PortMap, o.ExposedPorts)
	if o.MAC != nil {
		out[OptMAC] = []byte(o.MAC)
	}
	if o.DNSServers != nil {
		out[OptDNSServers] = o.DNSServers
	}
	return json.Marshal(out)
}

// SandboxOptions are the Options of Join and ProgramExternalConnectivity.
type SandboxOptions struct {
	// PortMap holds the published ports of the container; nil if absent.
	PortMap []PortBinding
	// ExposedPorts is nil if absent.
	ExposedPorts []ExposedPort
	// NoProxy6To4 comes with ProgramExternalConnectivity from 28.0: do not take
	// IPv6 connections for an endpoint that has only IPv4.
	NoProxy6To4 bool
	// Other holds what this package does not know; nil if there is nothing.
	Other map[string]json.RawMessage
}

// UnmarshalJSON decodes and checks the options as the engine sends them; null
// stands for no options.
func (o *SandboxOptions) UnmarshalJSON(data []byte) error {
	rest, err := splitOptions(data)
	if err != nil {
		return err
	}
	var d SandboxOptions
	if d.PortMap, d.ExposedPorts, err = takePorts(rest); err != nil {
		return err
	}
	if err := take(rest, OptNoProxy6To4, &d.NoProxy6To4); err != nil {
		return err
	}
	d.Other = leftover(rest)
	*o = d
	return nil
}

// MarshalJSON encodes the options as the engine would.
func (o SandboxOptions) MarshalJSON() ([]byte, error) {
	out := toAny(o.Other)
	putPorts(out, o.PortMap, o.ExposedPorts)
	if o.NoProxy6To4 {
		out[OptNoProxy6To4] = true
	}
	return json.Marshal(out)
}

// optionField is the path of an option in an error.
func optionField(key string) string { return fmt.Sprintf("Options[%q]", key) }

// splitOptions decodes the outer object. Absent and null give an empty map.
func splitOptions(data []byte) (map[string]json.RawMessage, error) {
	out := map[string]json.RawMessage{}
	if len(data) == 0 || isNull(data) {
		return out, nil
	}
	if err := decodeInto(data, &out); err != nil {
		return nil, under("Options", err)
	}
	return out, nil
}

// take moves the option key, if it is there and not null, out of options.
func take[T any](options map[string]json.RawMessage, key string, into *T) error {
	raw, ok := options[key]
	if !ok {
		return nil
	}
	delete(options, key)
	if isNull(raw) {
		return nil
	}
	return under(optionField(key), decodeInto(raw, into))
}

// takeList is take for a list whose errors name the index.
func takeList[T any](options map[string]json.RawMessage, key string) ([]T, error) {
	raw, ok := options[key]
	if !ok {
		return nil, nil
	}
	delete(options, key)
	list, err := decodeList[T](raw)
	return list, under(optionField(key), err)
}

func takePorts(options map[string]json.RawMessage) ([]PortBinding, []ExposedPort, error) {
	bindings, err := takeList[PortBinding](options, OptPortMap)
	if err != nil {
		return nil, nil, err
	}
	exposed, err := takeList[ExposedPort](options, OptExposedPorts)
	return bindings, exposed, err
}

// takeMAC reads the MAC address option, which is base64 because the engine
// encodes bytes.
func takeMAC(options map[string]json.RawMessage) (net.HardwareAddr, error) {
	raw, ok := options[OptMAC]
	if !ok {
		return nil, nil
	}
	var mac net.HardwareAddr
	err := take(options, OptMAC, &mac)
	if _, parseErr := net.ParseMAC(mac.String()); err != nil || (len(mac) > 0 && parseErr != nil) {
		return nil, &FieldError{Field: optionField(OptMAC), Value: string(raw), Want: "a MAC address in base64"}
	}
	if len(mac) == 0 {
		return nil, nil
	}
	return mac, nil
}

func putPorts(out map[string]any, bindings []PortBinding, exposed []ExposedPort) {
	if bindings != nil {
		out[OptPortMap] = bindings
	}
	if exposed != nil {
		out[OptExposedPorts] = exposed
	}
}

// leftover is nil for an empty map, so that equal requests compare equal.
func leftover(rest map[string]json.RawMessage) map[string]json.RawMessage {
	if len(rest) == 0 {
		return nil
	}
	return maps.Clone(rest)
}

func toAny(m map[string]json.RawMessage) map[string]any {
	out := make(map[string]any, len(m)+4)
	for key, value := range m {
		out[key] = value
	}
	return out
}

package plugin

import (
	"encoding/json"
	"net"
	"net/netip"
)

// Keys and values of the options of IpamDriver calls.
const (
	// OptRequestAddressType is set to [RequestAddressGateway] when a gateway is
	// asked for.
	OptRequestAddressType = "RequestAddressType"
	// RequestAddressGateway is the one known value of OptRequestAddressType.
	RequestAddressGateway = "com.docker.network.gateway"
	// OptEndpointName carries the container's name (engine 29.0 and later).
	OptEndpointName = "com.docker.network.endpoint.name"
	// OptSerial is "true" in every address request of a Swarm leader.
	OptSerial = "com.docker.network.ipam.serial"
	// DataGateway is the key of [RequestPoolResponse].Data for a gateway chosen
	// by the driver, in CIDR form.
	DataGateway = "com.docker.network.gateway"
)

// IPAMCapabilities answers IpamDriver.GetCapabilities.
type IPAMCapabilities struct {
	// RequiresMACAddress makes the engine generate a MAC address before it asks
	// for an address.
	RequiresMACAddress bool
	// RequiresRequestReplay makes the engine repeat all requests at its start.
	RequiresRequestReplay bool
}

// AddressSpaces answers IpamDriver.GetDefaultAddressSpaces. The names should
// differ. The engine asks at every network creation and, from 27.0, again
// before every RequestPool.
type AddressSpaces struct {
	LocalDefaultAddressSpace  string
	GlobalDefaultAddressSpace string
}

// RequestPoolRequest asks for a pool of addresses.
type RequestPoolRequest struct {
	// AddressSpace is one of the names from GetDefaultAddressSpaces.
	AddressSpace string
	// Pool is the subnet the user wants; the zero prefix asks for any. It is not
	// masked. Engine 29 passes on 0.0.0.0/N, which asks for any pool of that size.
	Pool netip.Prefix
	// SubPool is --ip-range; the zero prefix if none. It has the family of Pool;
	// that it lies inside Pool is not checked.
	SubPool netip.Prefix
	// Options are the --ipam-opt settings; nil if the engine sent null.
	Options map[string]string
	// V6 asks for an IPv6 pool. Swarm leaves it false for every pool: see
	// [RequestPoolRequest.IPv6].
	V6 bool
}

// IPv6 reports whether an IPv6 pool is wanted, by V6 or by the family of Pool.
func (r RequestPoolRequest) IPv6() bool { return r.V6 || r.Pool.Addr().Is6() }

// UnmarshalJSON decodes and checks a body as the engine sends it.
func (r *RequestPoolRequest) UnmarshalJSON(data []byte) error {
	var raw struct {
		AddressSpace, Pool, SubPool string
		Options                     json.RawMessage
		V6                          bool
	}
	if err := decodeInto(data, &raw); err != nil {
		return err
	}
	want := anyFamily
	if raw.V6 {
		want = 6
	}
	pool, err := parsePrefix("Pool", raw.Pool, want)
	if err != nil {
		return err
	}
	if pool.IsValid() {
		want = familyOf(pool.Addr())
	}
	sub, err := parsePrefix("SubPool", raw.SubPool, want)
	if err != nil {
		return err
	}
	options, err := decodeStrings(raw.Options)
	if err != nil {
		return under("Options", err)
	}
	*r = RequestPoolRequest{AddressSpace: raw.AddressSpace, Pool: pool, SubPool: sub, Options: options, V6: raw.V6}
	return nil
}

// RequestPoolResponse answers IpamDriver.RequestPool.
type RequestPoolResponse struct {
	// PoolID names the pool in all later calls.
	PoolID string
	// Pool is the subnet. A dynamic request that gets the same pool twice is
	// repeated by the engine without end when the pool overlaps a route.
	Pool netip.Prefix
	// Data may hold [DataGateway].
	Data map[string]string `json:",omitempty"`
}

// ReleasePoolRequest gives a pool back. The engine only logs an error.
type ReleasePoolRequest struct {
	// PoolID is never empty.
	PoolID string
}

// UnmarshalJSON decodes and checks a body as the engine sends it.
func (r *ReleasePoolRequest) UnmarshalJSON(data []byte) error {
	var raw struct{ PoolID string }
	if err := decodeInto(data, &raw); err != nil {
		return err
	}
	*r = ReleasePoolRequest(raw)
	return require("PoolID", r.PoolID)
}

// RequestAddressRequest asks for one address of a pool.
type RequestAddressRequest struct {
	// PoolID is never empty.
	PoolID string
	// Address is the address the user wants; the zero address asks for any.
	Address netip.Addr
	// Options as sent. It is nil if the engine sent null and empty if it sent
	// {}; an aux address is requested with null, on engines up to 28.5 an
	// endpoint's address may be as well.
	Options map[string]string
	// MAC is the endpoint's MAC address from Options; nil unless the driver's
	// capabilities require it.
	MAC net.HardwareAddr `json:"-"`
}

// Gateway reports whether the address is to become the network's gateway.
func (r RequestAddressRequest) Gateway() bool {
	return r.Options[OptRequestAddressType] == RequestAddressGateway
}

// EndpointName returns the name of the container that gets the address; empty
// before engine 29.0 and for gateways and aux addresses.
func (r RequestAddressRequest) EndpointName() string { return r.Options[OptEndpointName] }

// Serial reports whether a Swarm leader asks.
func (r RequestAddressRequest) Serial() bool { return r.Options[OptSerial] == "true" }

// UnmarshalJSON decodes and checks a body as the engine sends it.
func (r *RequestAddressRequest) UnmarshalJSON(data []byte) error {
	var raw struct {
		PoolID, Address string
		Options         json.RawMessage
	}
	if err := decodeInto(data, &raw); err != nil {
		return err
	}
	if err := require("PoolID", raw.PoolID); err != nil {
		return err
	}
	addr, err := parseAddr("Address", raw.Address)
	if err != nil {
		return err
	}
	options, err := decodeStrings(raw.Options)
	if err != nil {
		return under("Options", err)
	}
	mac, err := parseMAC(optionField(OptMAC), options[OptMAC])
	if err != nil {
		return err
	}
	*r = RequestAddressRequest{PoolID: raw.PoolID, Address: addr, Options: options, MAC: mac}
	return nil
}

// RequestAddressResponse answers IpamDriver.RequestAddress.
type RequestAddressResponse struct {
	// Address carries the pool's prefix length, not that of a host.
	Address netip.Prefix
	// Data may stay nil.
	Data map[string]string `json:",omitempty"`
}

// ReleaseAddressRequest gives one address back. The engine may send it twice
// and only logs an error.
type ReleaseAddressRequest struct {
	// PoolID is never empty.
	PoolID string
	// Address is always valid.
	Address netip.Addr
}

// UnmarshalJSON decodes and checks a body as the engine sends it.
func (r *ReleaseAddressRequest) UnmarshalJSON(data []byte) error {
	var raw struct{ PoolID, Address string }
	if err := decodeInto(data, &raw); err != nil {
		return err
	}
	if err := require("PoolID", raw.PoolID); err != nil {
		return err
	}
	if err := require("Address", raw.Address); err != nil {
		return err
	}
	addr, err := parseAddr("Address", raw.Address)
	if err != nil {
		return err
	}
	*r = ReleaseAddressRequest{PoolID: raw.PoolID, Address: addr}
	return nil
}

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return 4
	}
	return 6
}

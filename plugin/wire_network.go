package plugin

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
)

// Values of the scopes in [NetworkCapabilities].
const (
	ScopeLocal  = "local"
	ScopeGlobal = "global"
)

// NetworkCapabilities answers NetworkDriver.GetCapabilities. With an invalid
// Scope the engine does not register the driver and only logs why.
type NetworkCapabilities struct {
	// Scope is ScopeLocal or ScopeGlobal.
	Scope string
	// ConnectivityScope is ScopeLocal, ScopeGlobal or empty for the same as Scope.
	ConnectivityScope string `json:",omitempty"`
	// GwAllocChecker makes engines from 28.0 call GwAllocCheck.
	GwAllocChecker bool `json:",omitempty"`
}

// IPAMData describes one pool of a network.
type IPAMData struct {
	// AddressSpace is empty in AllocateNetwork.
	AddressSpace string
	// Pool is the subnet as the IPAM driver answered it, not masked; zero if
	// absent. With --ipam-driver null it is 0.0.0.0/0 or ::/0.
	Pool netip.Prefix `json:",omitzero"`
	// Gateway is the gateway's address with the pool's prefix length; zero if
	// absent (null IPAM, or GwAllocCheck answered that none is needed).
	Gateway netip.Prefix `json:",omitzero"`
	// AuxAddresses are the --aux-address settings by name, with the pool's prefix
	// length; nil if absent.
	AuxAddresses map[string]netip.Prefix `json:",omitempty"`
}

// decodeIPAMData decodes a list of pools that all belong to f. name is the
// field that holds the list.
func decodeIPAMData(name string, data []byte, f family) ([]IPAMData, error) {
	if len(data) == 0 {
		return nil, nil
	}
	type rawData struct {
		AddressSpace, Pool, Gateway string
		AuxAddresses                map[string]string
	}
	raw, err := decodeList[rawData](data)
	if err != nil || raw == nil {
		return nil, under(name, err)
	}
	list := make([]IPAMData, len(raw))
	for i, r := range raw {
		if list[i], err = parseIPAMData(r.AddressSpace, r.Pool, r.Gateway, r.AuxAddresses, f); err != nil {
			return nil, under(fmt.Sprintf("%s[%d]", name, i), err)
		}
	}
	return list, nil
}

func parseIPAMData(space, pool, gateway string, aux map[string]string, f family) (IPAMData, error) {
	d := IPAMData{AddressSpace: space}
	var err error
	if d.Pool, err = parsePrefix("Pool", pool, f); err != nil {
		return IPAMData{}, err
	}
	if f == anyFamily && d.Pool.IsValid() {
		f = familyOf(d.Pool.Addr())
	}
	if d.Gateway, err = parsePrefix("Gateway", gateway, f); err != nil {
		return IPAMData{}, err
	}
	if aux == nil {
		return d, nil
	}
	d.AuxAddresses = make(map[string]netip.Prefix, len(aux))
	for name, text := range aux {
		field := fmt.Sprintf("AuxAddresses[%q]", name)
		if err := require(field, text); err != nil {
			return IPAMData{}, err
		}
		if d.AuxAddresses[name], err = parsePrefix(field, text, f); err != nil {
			return IPAMData{}, err
		}
	}
	return d, nil
}

// AllocateNetworkRequest comes to the Swarm leader's plugin, and only when the
// driver's Scope is global. It comes again for known networks after every
// election.
type AllocateNetworkRequest struct {
	// NetworkID is never empty; 25 characters, unlike the 64 of other networks.
	NetworkID string
	// Options are the user's settings and what an earlier answer added.
	Options map[string]string
	// IPv4Data and IPv6Data hold one entry per subnet. Swarm puts IPv6 subnets
	// into IPv4Data; here they are in IPv6Data, after those sent as such.
	IPv4Data, IPv6Data []IPAMData
}

// UnmarshalJSON decodes and checks a body as the engine sends it.
func (r *AllocateNetworkRequest) UnmarshalJSON(data []byte) error {
	var raw struct {
		NetworkID                   string
		Options, IPv4Data, IPv6Data json.RawMessage
	}
	if err := decodeInto(data, &raw); err != nil {
		return err
	}
	if err := require("NetworkID", raw.NetworkID); err != nil {
		return err
	}
	options, err := decodeStrings(raw.Options)
	if err != nil {
		return under("Options", err)
	}
	mixed, err := decodeIPAMData("IPv4Data", raw.IPv4Data, anyFamily)
	if err != nil {
		return err
	}
	v6, err := decodeIPAMData("IPv6Data", raw.IPv6Data, 6)
	if err != nil {
		return err
	}
	*r = AllocateNetworkRequest{NetworkID: raw.NetworkID, Options: options, IPv6Data: v6}
	for _, d := range mixed {
		if d.Pool.Addr().Is6() {
			r.IPv6Data = append(r.IPv6Data, d)
		} else {
			r.IPv4Data = append(r.IPv4Data, d)
		}
	}
	return nil
}

// AllocateNetworkResponse answers NetworkDriver.AllocateNetwork.
type AllocateNetworkResponse struct {
	// Options replace the user's settings on every node: repeat them all.
	Options map[string]string
}

// GwAllocCheckRequest asks, before any address is requested, whether a network
// needs gateways (engine 28.0 and later, if the capability says so).
type GwAllocCheckRequest struct {
	Options NetworkOptions
}

// UnmarshalJSON decodes and checks a body as the engine sends it.
func (r *GwAllocCheckRequest) UnmarshalJSON(data []byte) error {
	var raw struct{ Options json.RawMessage }
	if err := decodeInto(data, &raw); err != nil {
		return err
	}
	options, err := decodeNetworkOptions(raw.Options)
	if err != nil {
		return err
	}
	r.Options = options
	return nil
}

// GwAllocCheckResponse answers NetworkDriver.GwAllocCheck: which families need
// no gateway address.
type GwAllocCheckResponse struct {
	SkipIPv4, SkipIPv6 bool
}

// CreateNetworkRequest makes a network on this host. It carries no name. It is
// not repeated after an engine restart, except for networks of a Swarm.
type CreateNetworkRequest struct {
	// NetworkID is never empty: 64 hexadecimal digits, or 25 characters in Swarm.
	NetworkID string
	// Options are the driver's settings and the engine's flags.
	Options NetworkOptions
	// IPv4Data and IPv6Data hold one entry per subnet, in the user's order.
	IPv4Data, IPv6Data []IPAMData
}

// UnmarshalJSON decodes and checks a body as the engine sends it.
func (r *CreateNetworkRequest) UnmarshalJSON(data []byte) error {
	var raw struct {
		NetworkID                   string
		Options, IPv4Data, IPv6Data json.RawMessage
	}
	if err := decodeInto(data, &raw); err != nil {
		return err
	}
	if err := require("NetworkID", raw.NetworkID); err != nil {
		return err
	}
	options, err := decodeNetworkOptions(raw.Options)
	if err != nil {
		return err
	}
	v4, err := decodeIPAMData("IPv4Data", raw.IPv4Data, 4)
	if err != nil {
		return err
	}
	v6, err := decodeIPAMData("IPv6Data", raw.IPv6Data, 6)
	if err != nil {
		return err
	}
	*r = CreateNetworkRequest{NetworkID: raw.NetworkID, Options: options, IPv4Data: v4, IPv6Data: v6}
	return nil
}

// NetworkRequest is the request of the methods that need only a network:
// FreeNetwork and DeleteNetwork.
type NetworkRequest struct {
	// NetworkID is never empty; the driver may not know it.
	NetworkID string
}

// UnmarshalJSON decodes and checks a body as the engine sends it.
func (r *NetworkRequest) UnmarshalJSON(data []byte) error {
	var raw struct{ NetworkID string }
	if err := decodeInto(data, &raw); err != nil {
		return err
	}
	*r = NetworkRequest(raw)
	return require("NetworkID", r.NetworkID)
}

// EndpointRequest is the request of the methods that need only an endpoint:
// DeleteEndpoint, EndpointOperInfo, Leave and RevokeExternalConnectivity.
type EndpointRequest struct {
	// NetworkID and EndpointID are never empty; the driver may not know them.
	NetworkID, EndpointID string
}

// UnmarshalJSON decodes and checks a body as the engine sends it.
func (r *EndpointRequest) UnmarshalJSON(data []byte) error {
	var raw struct{ NetworkID, EndpointID string }
	if err := decodeInto(data, &raw); err != nil {
		return err
	}
	*r = EndpointRequest(raw)
	return r.check()
}

func (r EndpointRequest) check() error {
	if err := require("NetworkID", r.NetworkID); err != nil {
		return err
	}
	return require("EndpointID", r.EndpointID)
}

// EndpointInterface is the interface of an endpoint: in a request what the
// engine has assigned, in an answer what the driver adds. Zero fields are unset
// and are left out of an answer.
type EndpointInterface struct {
	// Address and AddressIPv6 carry the pool's prefix length.
	Address, AddressIPv6 netip.Prefix
	// MACAddress travels as MacAddress, in colon form.
	MACAddress net.HardwareAddr
}

// rawInterface is the wire form of an EndpointInterface.
type rawInterface struct {
	Address     string `json:",omitempty"`
	AddressIPv6 string `json:",omitempty"`
	MacAddress  string `json:",omitempty"`
}

// UnmarshalJSON decodes and checks an interface as the engine sends it.
func (i *EndpointInterface) UnmarshalJSON(data []byte) error {
	var raw rawInterface
	if err := decodeInto(data, &raw); err != nil {
		return err
	}
	v4, err := parsePrefix("Address", raw.Address, 4)
	if err != nil {
		return err
	}
	v6, err := parsePrefix("AddressIPv6", raw.AddressIPv6, 6)
	if err != nil {
		return err
	}
	mac, err := parseMAC("MacAddress", raw.MacAddress)
	if err != nil {
		return err
	}
	*i = EndpointInterface{Address: v4, AddressIPv6: v6, MACAddress: mac}
	return nil
}

// MarshalJSON encodes the fields that are set.
func (i EndpointInterface) MarshalJSON() ([]byte, error) {
	raw := rawInterface{MacAddress: i.MACAddress.String()}
	if i.Address.IsValid() {
		raw.Address = i.Address.String()
	}
	if i.AddressIPv6.IsValid() {
		raw.AddressIPv6 = i.AddressIPv6.String()
	}
	return json.Marshal(raw)
}

// CreateEndpointRequest makes an endpoint. On engines up to 27 it comes before
// the container's network namespace exists.
type CreateEndpointRequest struct {
	// NetworkID and EndpointID are never empty.
	NetworkID, EndpointID string
	// Interface holds what the IPAM driver and the user have fixed.
	Interface EndpointInterface
	// Options are the ports and the endpoint's driver options.
	Options EndpointOptions
}

// UnmarshalJSON decodes and checks a body as the engine sends it.
func (r *CreateEndpointRequest) UnmarshalJSON(data []byte) error {
	var raw struct {
		NetworkID, EndpointID string
		Interface, Options    json.RawMessage
	}
	if err := decodeInto(data, &raw); err != nil {
		return err
	}
	if err := (EndpointRequest{raw.NetworkID, raw.EndpointID}).check(); err != nil {
		return err
	}
	req := CreateEndpointRequest{NetworkID: raw.NetworkID, EndpointID: raw.EndpointID}
	if len(raw.Interface) > 0 {
		if err := decodeInto(raw.Interface, &req.Interface); err != nil {
			return under("Interface", err)
		}
	}
	if len(raw.Options) > 0 {
		if err := decodeInto(raw.Options, &req.Options); err != nil {
			return err
		}
	}
	*r = req
	return nil
}

// CreateEndpointResponse answers NetworkDriver.CreateEndpoint.
type CreateEndpointResponse struct {
	// Interface holds only fields that the request left unset: the engine refuses
	// any other field, even with an equal value. Nil adds nothing.
	Interface *EndpointInterface `json:",omitempty"`
}

// OperInfoResponse answers NetworkDriver.EndpointOperInfo. The engine makes no
// use of it.
type OperInfoResponse struct {
	Value map[string]any
}

// JoinRequest attaches an endpoint to a container. It may come twice for one
// endpoint without a Leave.
type JoinRequest struct {
	// NetworkID and EndpointID are never empty.
	NetworkID, EndpointID string
	// SandboxKey is the path of the container's network namespace. During a
	// container's start the namespace is there on engines from 28.0 only.
	SandboxKey string
	// Options are the ports; the endpoint's driver options come only with
	// CreateEndpoint.
	Options SandboxOptions
}

// UnmarshalJSON decodes and checks a body as the engine sends it.
func (r *JoinRequest) UnmarshalJSON(data []byte) error {
	var raw struct {
		NetworkID, EndpointID, SandboxKey string
		Options                           json.RawMessage
	}
	if err := decodeInto(data, &raw); err != nil {
		return err
	}
	if err := (EndpointRequest{raw.NetworkID, raw.EndpointID}).check(); err != nil {
		return err
	}
	if err := require("SandboxKey", raw.SandboxKey); err != nil {
		return err
	}
	req := JoinRequest{NetworkID: raw.NetworkID, EndpointID: raw.EndpointID, SandboxKey: raw.SandboxKey}
	if len(raw.Options) > 0 {
		if err := decodeInto(raw.Options, &req.Options); err != nil {
			return err
		}
	}
	*r = req
	return nil
}

// JoinResponse answers NetworkDriver.Join. Zero fields are left out.
type JoinResponse struct {
	// InterfaceName tells the engine which link to move into the container. With
	// nil it adds no link, address or route.
	InterfaceName *InterfaceName `json:",omitempty"`
	// Gateway and GatewayIPv6 are the default gateways. Without any, and without
	// DisableGatewayService, the engine attaches docker_gwbridge.
	Gateway     netip.Addr `json:",omitzero"`
	GatewayIPv6 netip.Addr `json:",omitzero"`
	// StaticRoutes are added in the container.
	StaticRoutes []StaticRoute `json:",omitempty"`
	// DisableGatewayService keeps docker_gwbridge away.
	DisableGatewayService bool `json:",omitempty"`
}

// InterfaceName names a link on both sides of the move.
type InterfaceName struct {
	// SrcName is the link's name on the host, at most 15 bytes.
	SrcName string
	// DstPrefix is the start of its name in the container; the engine appends the
	// lowest free number.
	DstPrefix string
	// DstName is ignored by all engines up to 29.7.
	DstName string `json:",omitempty"`
}

// RouteType says how a [StaticRoute] is reached.
type RouteType int

const (
	// RouteNextHop goes through NextHop.
	RouteNextHop RouteType = 0
	// RouteConnected goes out of the endpoint's own link.
	RouteConnected RouteType = 1
)

// StaticRoute is a route inside the container.
type StaticRoute struct {
	Destination netip.Prefix
	RouteType   RouteType
	// NextHop is needed for RouteNextHop and stays zero for RouteConnected.
	NextHop netip.Addr `json:",omitzero"`
}

// ProgramRequest is the request of ProgramExternalConnectivity: publish the
// ports of an endpoint that became the container's gateway. It replaces what an
// earlier one said.
type ProgramRequest struct {
	// NetworkID and EndpointID are never empty.
	NetworkID, EndpointID string
	// Options are the ports to publish.
	Options SandboxOptions
}

// UnmarshalJSON decodes and checks a body as the engine sends it.
func (r *ProgramRequest) UnmarshalJSON(data []byte) error {
	var raw struct {
		NetworkID, EndpointID string
		Options               json.RawMessage
	}
	if err := decodeInto(data, &raw); err != nil {
		return err
	}
	if err := (EndpointRequest{raw.NetworkID, raw.EndpointID}).check(); err != nil {
		return err
	}
	req := ProgramRequest{NetworkID: raw.NetworkID, EndpointID: raw.EndpointID}
	if len(raw.Options) > 0 {
		if err := decodeInto(raw.Options, &req.Options); err != nil {
			return err
		}
	}
	*r = req
	return nil
}

// DiscoveryNode is the only DiscoveryType that the engine forwards.
const DiscoveryNode = 1

// DiscoverRequest is the request of DiscoverNew and DiscoverDelete: a Swarm
// node appeared or left. The engine only logs an error.
type DiscoverRequest struct {
	// DiscoveryType is DiscoveryNode; other values are let through.
	DiscoveryType int
	// Node is decoded if DiscoveryType is DiscoveryNode.
	Node Node `json:"-"`
	// DiscoveryData is what was sent, for all types.
	DiscoveryData json.RawMessage
}

// Node is a node of the Swarm.
type Node struct {
	// Address is the node's data path address; zero if unset.
	Address netip.Addr
	// BindAddress is set for this node only.
	BindAddress netip.Addr
	// Self reports whether it is this node.
	Self bool
}

// UnmarshalJSON decodes and checks a body as the engine sends it.
func (r *DiscoverRequest) UnmarshalJSON(data []byte) error {
	var raw struct {
		DiscoveryType int
		DiscoveryData json.RawMessage
	}
	if err := decodeInto(data, &raw); err != nil {
		return err
	}
	req := DiscoverRequest{DiscoveryType: raw.DiscoveryType, DiscoveryData: raw.DiscoveryData}
	if req.DiscoveryType == DiscoveryNode && len(raw.DiscoveryData) > 0 {
		node, err := decodeNode(raw.DiscoveryData)
		if err != nil {
			return under("DiscoveryData", err)
		}
		req.Node = node
	}
	*r = req
	return nil
}

func decodeNode(data []byte) (Node, error) {
	var raw struct {
		Address, BindAddress string
		Self                 bool
	}
	if err := decodeInto(data, &raw); err != nil {
		return Node{}, err
	}
	addr, err := parseAddr("Address", raw.Address)
	if err != nil {
		return Node{}, err
	}
	bind, err := parseAddr("BindAddress", raw.BindAddress)
	if err != nil {
		return Node{}, err
	}
	return Node{Address: addr, BindAddress: bind, Self: raw.Self}, nil
}

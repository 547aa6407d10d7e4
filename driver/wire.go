package driver

import (
	"context"
	"fmt"
	"maps"
	"net"

	"github.com/weft-net/weft/plugin"
)

// A Wire answers the engine: it turns decoded requests into calls of a
// [Driver] and its answers into the wire's. It is a [plugin.NetworkDriver].
type Wire struct{ d *Driver }

// NewWire makes the engine's view of a driver.
func NewWire(d *Driver) Wire { return Wire{d} }

var _ plugin.NetworkDriver = Wire{}

// auxDefault4 and auxDefault6 are the aux addresses that name another default
// router than the gateway, as the built-in bridge driver has them.
const (
	auxDefault4 = "DefaultGatewayIPv4"
	auxDefault6 = "DefaultGatewayIPv6"
)

// GetCapabilities reports the scope. Connectivity is global, so that Swarm
// shares names between nodes.
func (w Wire) GetCapabilities(context.Context) (plugin.NetworkCapabilities, error) {
	return plugin.NetworkCapabilities{Scope: w.d.cfg.Scope, ConnectivityScope: plugin.ScopeGlobal, GwAllocChecker: true}, nil
}

// AllocateNetwork echoes all options: what it leaves out, the nodes of a Swarm
// never see.
func (w Wire) AllocateNetwork(_ context.Context, req plugin.AllocateNetworkRequest) (plugin.AllocateNetworkResponse, error) {
	out := maps.Clone(req.Options)
	if out == nil {
		out = map[string]string{}
	}
	return plugin.AllocateNetworkResponse{Options: out}, nil
}

// FreeNetwork has nothing to free.
func (w Wire) FreeNetwork(context.Context, plugin.NetworkRequest) error { return nil }

// GwAllocCheck says whether the engine should reserve gateway addresses.
func (w Wire) GwAllocCheck(_ context.Context, req plugin.GwAllocCheckRequest) (plugin.GwAllocCheckResponse, error) {
	v4, v6, err := w.d.SkipGateway(req.Options.Generic, req.Options.Internal)
	return plugin.GwAllocCheckResponse{SkipIPv4: v4, SkipIPv6: v6}, err
}

// CreateNetwork makes a network.
func (w Wire) CreateNetwork(ctx context.Context, req plugin.CreateNetworkRequest) error {
	n := Network{ID: req.NetworkID, Options: req.Options.Generic, Internal: req.Options.Internal}
	if req.Options.EnableIPv4 {
		n.IPv4 = subnets(req.IPv4Data, auxDefault4)
	}
	n.IPv6 = subnets(req.IPv6Data, auxDefault6)
	if req.Options.EnableIPv6 && len(n.IPv6) == 0 {
		return WithHint(fmt.Errorf("%w: IPv6 is on, but the network has no IPv6 subnet", ErrOption), "give one with --subnet")
	}
	return w.d.CreateNetwork(ctx, n)
}

// subnets leaves out what `--ipam-driver null` sends: a pool of every address.
func subnets(data []plugin.IPAMData, aux string) []Subnet {
	var out []Subnet
	for _, d := range data {
		if !d.Pool.IsValid() || d.Pool.Bits() == 0 {
			continue
		}
		out = append(out, Subnet{Pool: d.Pool.Masked(), Gateway: d.Gateway.Addr(), DefaultRoute: d.AuxAddresses[aux].Addr()})
	}
	return out
}

// DeleteNetwork removes a network.
func (w Wire) DeleteNetwork(ctx context.Context, req plugin.NetworkRequest) error {
	return w.d.DeleteNetwork(ctx, req.NetworkID)
}

// CreateEndpoint records an endpoint. Only a MAC address that nobody chose is
// part of the answer: the engine refuses an echo.
func (w Wire) CreateEndpoint(ctx context.Context, req plugin.CreateEndpointRequest) (plugin.CreateEndpointResponse, error) {
	ep := Endpoint{
		ID: req.EndpointID, Network: req.NetworkID, DriverOpts: req.Options.DriverOpts,
		IPv4: req.Interface.Address, IPv6: req.Interface.AddressIPv6, MAC: req.Interface.MACAddress.String(),
	}
	made, err := w.d.CreateEndpoint(ctx, ep)
	if err != nil || len(req.Interface.MACAddress) > 0 || made.MAC == "" {
		return plugin.CreateEndpointResponse{}, err
	}
	mac, err := net.ParseMAC(made.MAC)
	if err != nil {
		return plugin.CreateEndpointResponse{}, fmt.Errorf("endpoint %s: %w", short(ep.ID), err)
	}
	return plugin.CreateEndpointResponse{Interface: &plugin.EndpointInterface{MACAddress: mac}}, nil
}

// DeleteEndpoint removes an endpoint.
func (w Wire) DeleteEndpoint(ctx context.Context, req plugin.EndpointRequest) error {
	return w.d.DeleteEndpoint(ctx, req.NetworkID, req.EndpointID)
}

// EndpointOperInfo describes an endpoint. The engine ignores errors here.
func (w Wire) EndpointOperInfo(_ context.Context, req plugin.EndpointRequest) (plugin.OperInfoResponse, error) {
	value := map[string]any{}
	info, err := w.d.Info(req.NetworkID, req.EndpointID)
	for k, v := range info {
		value[k] = v
	}
	return plugin.OperInfoResponse{Value: value}, err
}

// Join makes the endpoint's link.
func (w Wire) Join(ctx context.Context, req plugin.JoinRequest) (plugin.JoinResponse, error) {
	a, err := w.d.Join(ctx, req.NetworkID, req.EndpointID, req.SandboxKey, bindings(req.Options))
	if err != nil {
		return plugin.JoinResponse{}, err
	}
	out := plugin.JoinResponse{Gateway: a.Gateway4, GatewayIPv6: a.Gateway6, DisableGatewayService: a.NoGatewayService}
	if a.SrcName != "" {
		out.InterfaceName = &plugin.InterfaceName{SrcName: a.SrcName, DstPrefix: a.DstPrefix}
	}
	for _, r := range a.Routes {
		route := plugin.StaticRoute{Destination: r.Destination, RouteType: plugin.RouteConnected}
		if r.NextHop.IsValid() {
			route.RouteType, route.NextHop = plugin.RouteNextHop, r.NextHop
		}
		out.StaticRoutes = append(out.StaticRoutes, route)
	}
	return out, nil
}

func bindings(o plugin.SandboxOptions) []Binding {
	var out []Binding
	for _, p := range o.PortMap {
		out = append(out, Binding{Proto: p.Proto, Port: p.Port, HostIP: p.HostIP, HostPort: p.HostPort,
			HostPortEnd: p.HostPortEnd, NoProxy6To4: o.NoProxy6To4})
	}
	return out
}

// Leave takes an endpoint out of its sandbox.
func (w Wire) Leave(ctx context.Context, req plugin.EndpointRequest) error {
	return w.d.Leave(ctx, req.NetworkID, req.EndpointID)
}

// ProgramExternalConnectivity publishes ports, in place of those before.
func (w Wire) ProgramExternalConnectivity(ctx context.Context, req plugin.ProgramRequest) error {
	return w.d.Publish(ctx, req.NetworkID, req.EndpointID, bindings(req.Options))
}

// RevokeExternalConnectivity closes the ports.
func (w Wire) RevokeExternalConnectivity(ctx context.Context, req plugin.EndpointRequest) error {
	return w.d.Unpublish(ctx, req.NetworkID, req.EndpointID)
}

// DiscoverNew and DiscoverDelete tell of Swarm nodes; nothing depends on them.
func (w Wire) DiscoverNew(context.Context, plugin.DiscoverRequest) error { return nil }

// DiscoverDelete is DiscoverNew's counterpart.
func (w Wire) DiscoverDelete(context.Context, plugin.DiscoverRequest) error { return nil }

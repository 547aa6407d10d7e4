package driver

import (
	"cmp"
	"context"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/firewall"
)

// A Kind makes one sort of network. Every method is idempotent: it is called
// again after a crash, by reconcile, and by an engine that asks twice.
type Kind interface {
	// Options lists the keys of `docker network create -o` that the kind takes.
	Options() []Option
	// SkipGateway says which families need no gateway address (engine ≥ 28).
	SkipGateway(options map[string]string, internal bool) (v4, v6 bool)
	// PlanNetwork checks a new network against the others and the host, and
	// returns it with the kind's own facts filled in. It changes nothing.
	PlanNetwork(ctx context.Context, n Network, others []Network) (Network, error)
	// EnsureNetwork makes the kernel have the network.
	EnsureNetwork(ctx context.Context, n Network) error
	// RemoveNetwork takes it away; what is gone already is success.
	RemoveNetwork(ctx context.Context, n Network) error
	// PlanEndpoint checks a new endpoint and fills in its MAC address and names.
	PlanEndpoint(n Network, ep Endpoint) (Endpoint, error)
	// Join makes the endpoint's link, down if it is Off, and says what the engine
	// should do with it.
	Join(ctx context.Context, n Network, ep Endpoint) (Endpoint, JoinAnswer, error)
	// Publish makes the endpoint's ports answer, instead of those it had. Those of one
	// that is Off are reserved, and lead nowhere.
	Publish(ctx context.Context, n Network, ep Endpoint, bindings []Binding) (Endpoint, error)
	// Unpublish closes the endpoint's ports.
	Unpublish(ctx context.Context, n Network, ep Endpoint) error
	// Leave takes the endpoint out of its sandbox.
	Leave(ctx context.Context, n Network, ep Endpoint) error
	// RemoveEndpoint takes away what is left of the endpoint.
	RemoveEndpoint(ctx context.Context, n Network, ep Endpoint) error
	// Restore takes up an endpoint of an earlier process: its port reservations.
	Restore(ctx context.Context, n Network, ep Endpoint) error
	// Facts tells what the firewall must know of a network and its endpoints.
	Facts(n Network, eps []Endpoint) firewall.Facts
	// Check compares a network and its endpoints with what the kernel has, and
	// returns one sentence for each difference. It changes nothing.
	Check(actual Actual, n Network, eps []Endpoint) []string
	// EnsureEndpoint mends the host's side of a joined endpoint: nothing passes it
	// while the endpoint is Off.
	EnsureEndpoint(ctx context.Context, n Network, ep Endpoint) error
}

// A Watcher is a [Kind] whose networks rest on what weft does not make.
type Watcher interface {
	// Troubles says what is wrong with a network that weft cannot mend, one sentence
	// each, and what to do. eps are its joined endpoints. It changes nothing.
	Troubles(actual Actual, n Network, eps []Endpoint) []string
}

// A Portless is a [Kind] whose networks publish no ports.
type Portless interface {
	// Portless only marks the kind.
	Portless()
}

// Network is one network as weft promised it to the engine.
type Network struct {
	// ID is the engine's: 64 hex digits, or 25 letters and digits in Swarm.
	ID string `json:"id"`
	// Mode is the name of the Kind.
	Mode string `json:"mode"`
	// Options are all of the user's -o settings, checked.
	Options map[string]string `json:"options,omitempty"`
	// IPv4 and IPv6 are the subnets; an empty list means that the family is off.
	IPv4 []Subnet `json:"ipv4,omitempty"`
	IPv6 []Subnet `json:"ipv6,omitempty"`
	// Internal networks have no way out.
	Internal bool `json:"internal,omitempty"`
	// Device is the name of the bridge or other device that stands for the network.
	Device string `json:"device,omitempty"`
	// Tunnel is the name of the device that carries its frames to other hosts, if any.
	Tunnel string `json:"tunnel,omitempty"`
	// Parent is the device of the host's on which Device rests or which Device is, and
	// ParentMAC its MAC address; both are empty for networks that have none. VLAN is the
	// tag if Device is a sub-interface of it.
	Parent    string `json:"parent,omitempty"`
	ParentMAC string `json:"parentMAC,omitempty"`
	VLAN      int    `json:"vlan,omitempty"`
	// ParentRoute is the destination of the route by which Parent was found, if it was by
	// one.
	ParentRoute netip.Prefix `json:"parentRoute,omitzero"`
	// Access says how the host itself is on the line of the network's containers; nil if
	// it is not.
	Access *Access `json:"access,omitempty"`
	// Adopted says that the device was there before and stays when the network goes.
	Adopted bool `json:"adopted,omitempty"`
	// AddedAddrs are the addresses that weft put on an adopted device.
	AddedAddrs []netip.Prefix `json:"addedAddrs,omitempty"`
	// AddedLocalnet says that weft let an adopted device route 127.0.0.0/8.
	AddedLocalnet bool `json:"addedLocalnet,omitempty"`
	// Shared says which network of the cluster it is; nil for one of this host alone.
	Shared *Shared `json:"shared,omitempty"`
	// Created is when the engine asked for it.
	Created time.Time `json:"created"`
}

// Shared is what the hosts of a cluster have in common of a network.
type Shared struct {
	// UUID is its identity in the cluster.
	UUID string `json:"uuid"`
	// VNI tells its frames apart on the underlay; 0 for a mode that has none.
	VNI uint32 `json:"vni,omitempty"`
	// MTU is that of the containers' interfaces, in bytes.
	MTU int `json:"mtu,omitempty"`
	// Domain is that of its addresses, "" for that of all that name none.
	Domain string `json:"domain,omitempty"`
	// Seed is what MAC addresses are made from where it is not UUID: a network that took
	// over another identity keeps them, because containers remember them.
	Seed string `json:"seed,omitempty"`
}

// Access is how a host is on the line of its containers, besides by its own device there,
// which does not reach them.
type Access struct {
	// Link is the name of the device that does.
	Link string `json:"link"`
	// Pooled says that the host has addresses there from the network's pools, because it
	// had none of its own.
	Pooled bool `json:"pooled,omitempty"`
}

// MACSeed is what the MAC addresses of the network on this host are made from.
func (s Shared) MACSeed() string { return cmp.Or(s.Seed, s.UUID) }

// Sort is the network's mode with its article: "a bridge", "an overlay".
func (n Network) Sort() string {
	if n.Mode != "" && strings.Contains("aeiou", n.Mode[:1]) {
		return "an " + n.Mode
	}
	return "a " + n.Mode
}

// Devices are those on the host that the network itself needs; some may be empty.
func (n Network) Devices() []string {
	out := []string{n.Device, n.Tunnel}
	if n.Access != nil {
		out = append(out, n.Access.Link)
	}
	return out
}

// Subnets are all subnets of both families.
func (n Network) Subnets() []Subnet { return append(append([]Subnet{}, n.IPv4...), n.IPv6...) }

// Subnet is one address range of a network.
type Subnet struct {
	// Pool is the subnet, masked.
	Pool netip.Prefix `json:"pool"`
	// Gateway is the gateway's address; the zero value means none.
	Gateway netip.Addr `json:"gateway,omitzero"`
	// DefaultRoute is the router of the containers when it is not the gateway
	// (aux address DefaultGatewayIPv4 or DefaultGatewayIPv6).
	DefaultRoute netip.Addr `json:"defaultRoute,omitzero"`
}

// Router is the address that containers use as their way out.
func (s Subnet) Router() netip.Addr {
	if s.DefaultRoute.IsValid() {
		return s.DefaultRoute
	}
	return s.Gateway
}

// Attach says who puts an endpoint's link into the sandbox.
type Attach string

// How links get into sandboxes.
const (
	AttachDocker Attach = "docker" // weft makes it on the host, the engine moves it
	AttachDirect Attach = "direct" // weft makes it in the sandbox
)

// Endpoint is one container's connection to a network.
type Endpoint struct {
	ID      string `json:"id"`
	Network string `json:"network"`
	// IPv4 and IPv6 carry the subnet's prefix length; zero means none.
	IPv4 netip.Prefix `json:"ipv4,omitzero"`
	IPv6 netip.Prefix `json:"ipv6,omitzero"`
	MAC  string       `json:"mac,omitempty"`
	// DriverOpts are the user's --driver-opt settings, checked.
	DriverOpts map[string]string `json:"driverOpts,omitempty"`
	// HostLink and PeerLink name the two ends of the veth pair.
	HostLink string `json:"hostLink,omitempty"`
	PeerLink string `json:"peerLink,omitempty"`
	// Left is the sandbox from which the engine takes the device back after Leave, which it
	// does not if it could not use a Join: empty while Joined.
	Left string `json:"left,omitempty"`
	// Joined says that a sandbox has it; the fields below are set only then.
	Joined  bool   `json:"joined,omitempty"`
	Sandbox string `json:"sandbox,omitempty"`
	Attach  Attach `json:"attach,omitempty"`
	// AttachWhy says why a wanted attach=direct was not used.
	AttachWhy string `json:"attachWhy,omitempty"`
	// Wanted are the ports that the sandbox publishes, by whomever.
	Wanted []Binding `json:"wanted,omitempty"`
	// Bindings are what the engine asked this endpoint to publish; Ports are
	// those with the host port that was chosen.
	Bindings []Binding `json:"bindings,omitempty"`
	Ports    []Port    `json:"ports,omitempty"`
	Created  time.Time `json:"created"`
	// Off says that one of its addresses belongs to another host by now: the kind keeps
	// its link down. The journal does not have it; the driver says it anew each time.
	Off bool `json:"-"`
	// PortsElsewhere says, in Join, that another endpoint of the sandbox is one by which
	// the ports in Wanted are published.
	PortsElsewhere bool `json:"-"`
}

// Addrs are the endpoint's addresses.
func (e Endpoint) Addrs() []netip.Prefix {
	var out []netip.Prefix
	for _, p := range []netip.Prefix{e.IPv4, e.IPv6} {
		if p.IsValid() {
			out = append(out, p)
		}
	}
	return out
}

// Binding is one port as the user asked for it.
type Binding struct {
	// Proto is the IP protocol number: 6 TCP, 17 UDP, 132 SCTP.
	Proto uint8 `json:"proto"`
	// Port is the container's port.
	Port uint16 `json:"port"`
	// HostIP is the host's address; zero means every address.
	HostIP netip.Addr `json:"hostIP,omitzero"`
	// HostPort to HostPortEnd is the range to choose from; 0 means any port.
	HostPort    uint16 `json:"hostPort,omitempty"`
	HostPortEnd uint16 `json:"hostPortEnd,omitempty"`
	// NoProxy6To4 says that IPv6 connections must not reach an endpoint that has
	// only IPv4 (engine ≥ 28, when another network answers them).
	NoProxy6To4 bool `json:"noProxy6To4,omitempty"`
}

// Port is one published port.
type Port struct {
	Proto uint8 `json:"proto"`
	// Host is where it answers; an unspecified address stands for every address
	// of its family.
	Host netip.AddrPort `json:"host"`
	// Container is where it leads. Its family may differ from the host's: then
	// weft's own proxy carries the traffic.
	Container netip.AddrPort `json:"container"`
}

// JoinAnswer says what the engine should do with the endpoint's link.
type JoinAnswer struct {
	// SrcName is the link to move; empty when weft has put it there itself.
	SrcName, DstPrefix string
	// Gateway4 and Gateway6 are the default routes; zero means none.
	Gateway4, Gateway6 netip.Addr
	// Routes are further routes.
	Routes []Route
	// NoGatewayService keeps docker_gwbridge away.
	NoGatewayService bool
}

// Route is a static route of a sandbox. An invalid NextHop is an on-link route.
type Route struct {
	Destination netip.Prefix
	NextHop     netip.Addr
}

// ProtoName is the name of a protocol number: tcp, udp, sctp, or the number.
func ProtoName(proto uint8) string {
	switch proto {
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 132:
		return "sctp"
	}
	return strconv.Itoa(int(proto))
}

// Package bridged is what the kinds have in common whose networks are Linux bridges:
// endpoints on veth pairs, published ports, forwarding, subnets that must not overlap.
//
//	type Kind struct{ *bridged.Endpoints; … }
//	k.Endpoints = bridged.New(bridged.Config{Kernel: k, Firewall: fw, Ports: table, Later: later, Settings: read})
//
// It makes no bridge and knows no option but its own; what a network is like comes
// from Config.Settings.
package bridged

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/firewall"
	"github.com/weft-net/weft/internal/hostport"
	"github.com/weft-net/weft/internal/kernel"
)

// Kernel is what endpoints on a bridge need of the kernel.
type Kernel interface {
	AddVeth(v kernel.Veth) error
	Attach(a kernel.Attachment) (ifname string, err error)
	EnsurePort(v kernel.Veth) error
	DeleteLink(name string) error
	SandboxExists(path string) bool
	LinkByName(name string) (kernel.Link, error)
	Links() ([]kernel.Link, error)
	Addresses() ([]kernel.Address, error)
	Routes() ([]kernel.Route, error)
	Sysctl(key string) (string, error)
	EnsureSysctl(s kernel.Sysctl) (changed bool, err error)
}

// Firewall is what is told of published ports.
type Firewall interface {
	AddPorts(ctx context.Context, ports []firewall.Port, open []firewall.Open) error
	RemovePorts(ctx context.Context, endpoint string) error
}

// Ports reserves host ports.
type Ports interface {
	Reserve(req hostport.Request) ([]hostport.Mapping, error)
	Release(owner string)
}

// Later does what no answer waits for.
type Later interface {
	Delete(link string) error
	Forget(flows ...kernel.Flow)
}

// Config is what [New] takes. Kernel, Firewall, Ports, Later, Settings and Seed
// are required.
type Config struct {
	Kernel   Kernel
	Firewall Firewall
	Ports    Ports
	Later    Later
	// Settings says what a network is like; its options have passed their checks.
	Settings func(n driver.Network) Settings
	// Seed makes MAC addresses differ between clusters. Endpoints of one network that
	// have one address have one MAC address, on whatever host.
	Seed func(n driver.Network) string
	// DirectSafe says whether the engine bears attach=direct, and if not, why;
	// nil means that nobody knows, so no.
	DirectSafe func() (ok bool, why string)
	Logger     *slog.Logger
}

// Endpoints makes the endpoints of bridged networks: the half of a [driver.Kind] that
// is about endpoints. It keeps no state of its own.
type Endpoints struct {
	cfg Config
	log *slog.Logger
}

// New makes the endpoints' half of a kind.
func New(cfg Config) *Endpoints {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.DirectSafe == nil {
		cfg.DirectSafe = func() (bool, string) { return false, "nothing is known of the engine" }
	}
	return &Endpoints{cfg: cfg, log: cfg.Logger}
}

// Forwards is both families that an open network has.
func (e *Endpoints) Forwards(n driver.Network) (v4, v6 bool) {
	return !n.Internal && len(n.IPv4) > 0, !n.Internal && len(n.IPv6) > 0
}

// Facts tells the firewall of a network and its published ports.
func (e *Endpoints) Facts(n driver.Network, eps []driver.Endpoint) firewall.Facts {
	s := e.cfg.Settings(n)
	f := firewall.Facts{Networks: []firewall.Network{FirewallNetwork(n, s)}}
	for _, ep := range eps {
		ports, open := firewallPorts(n, s, ep)
		f.Ports, f.Open = append(f.Ports, ports...), append(f.Open, open...)
	}
	return f
}

// FirewallNetwork is what the firewall is told of a network.
func FirewallNetwork(n driver.Network, s Settings) firewall.Network {
	out := firewall.Network{ID: n.ID, Bridge: n.Device, Internal: n.Internal, ICC: s.ICC, Masquerade: s.Masquerade, Trusted: s.Trusted, Tunnel: n.Tunnel}
	if n.Tunnel != "" {
		out.Gateways = Gateways(n)
	}
	for _, sub := range n.IPv4 {
		out.IPv4 = append(out.IPv4, firewall.Family{Subnet: sub.Pool, Mode: s.Mode4, SNAT: s.Host4})
	}
	for _, sub := range n.IPv6 {
		out.IPv6 = append(out.IPv6, firewall.Family{Subnet: sub.Pool, Mode: s.Mode6, SNAT: s.Host6})
	}
	return out
}

// CheckPorts returns one sentence for each endpoint whose link is not as it should be
// in the network's bridge.
func CheckPorts(a driver.Actual, bridge kernel.Link, eps []driver.Endpoint) []string {
	var out []string
	for _, ep := range eps {
		l, ok := a.Links[ep.HostLink]
		if !ok {
			continue // its sandbox is gone, or nobody can mend it
		}
		if l.Group == kernel.DoomedGroup {
			continue // the endpoint leaves right now: its link goes before its record
		}
		if l.Master != bridge.Index {
			out = append(out, fmt.Sprintf("link %s of endpoint %.12s was not in bridge %s", l.Name, ep.ID, bridge.Name))
		}
		switch {
		case ep.Off && l.Up:
			out = append(out, fmt.Sprintf("link %s of endpoint %.12s was up, and its address belongs to another host", l.Name, ep.ID))
		case !ep.Off && !l.Up:
			out = append(out, fmt.Sprintf("link %s of endpoint %.12s was down", l.Name, ep.ID))
		}
	}
	return out
}

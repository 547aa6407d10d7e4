package bridge

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/weft-net/weft/internal/firewall"
	"github.com/weft-net/weft/internal/hostport"
	"github.com/weft-net/weft/internal/kernel"

	"github.com/weft-net/weft/driver"
)

// Kernel is what bridge networks need of the kernel.
type Kernel interface {
	EnsureBridge(b kernel.Bridge) (made bool, err error)
	RemoveAddrs(name string, addrs []netip.Prefix) error
	DeleteLink(name string) error
	AddVeth(v kernel.Veth) error
	Attach(a kernel.Attachment) (ifname string, err error)
	EnsurePort(v kernel.Veth) error
	SandboxExists(path string) bool
	LinkByName(name string) (kernel.Link, error)
	Links() ([]kernel.Link, error)
	Addresses() ([]kernel.Address, error)
	Routes() ([]kernel.Route, error)
	Sysctl(key string) (string, error)
	EnsureSysctl(s kernel.Sysctl) (changed bool, err error)
}

// Firewall is what bridge networks tell the firewall.
type Firewall interface {
	AddNetwork(ctx context.Context, n firewall.Network) error
	RemoveNetwork(ctx context.Context, id string) error
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

// Config is what [New] takes. Kernel, Firewall, Ports and Later are required.
type Config struct {
	Kernel   Kernel
	Firewall Firewall
	Ports    Ports
	Later    Later
	// Seed makes MAC addresses differ between clusters.
	Seed string
	// DirectSafe says whether the engine bears attach=direct, and if not, why;
	// nil means that nobody knows, so no.
	DirectSafe func() (ok bool, why string)
	Logger     *slog.Logger
}

// A Kind makes bridge networks. It keeps no state of its own.
type Kind struct {
	cfg Config
	log *slog.Logger
}

var _ driver.Kind = (*Kind)(nil)

// New makes the kind.
func New(cfg Config) *Kind {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.DirectSafe == nil {
		cfg.DirectSafe = func() (bool, string) { return false, "nothing is known of the engine" }
	}
	return &Kind{cfg: cfg, log: cfg.Logger}
}

// SkipGateway says that an isolated network has no gateway.
func (k *Kind) SkipGateway(options map[string]string, internal bool) (v4, v6 bool) {
	s := parse(options)
	return internal && s.Mode4 == firewall.ModeIsolated, internal && s.Mode6 == firewall.ModeIsolated
}

package overlay

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/driver/bridged"
	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/firewall"
	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/ownership"
)

// DefaultPort is the UDP port of the tunnels: neither that of Docker's overlay (4789)
// nor that of other users of the kernel's default (8472).
const DefaultPort = 8476

// Kernel is what overlay networks need of the kernel.
type Kernel interface {
	bridged.Kernel
	EnsureBridge(b kernel.Bridge) (made bool, err error)
	EnsureVXLAN(v kernel.VXLAN) (kernel.Change, error)
	FDB(link string) ([]kernel.FDBEntry, error)
	Neighbors(link string) ([]kernel.Neighbor, error)
	ApplyForwarding(c kernel.ForwardingChanges) error
	Announce(list []kernel.Neighbor) error
	RouteTo(to netip.Addr) (kernel.Path, error)
}

// Firewall is what overlay networks tell the firewall.
type Firewall interface {
	bridged.Firewall
	AddNetwork(ctx context.Context, n firewall.Network) error
	RemoveNetwork(ctx context.Context, id string) error
	SetShortcuts(ctx context.Context, s firewall.Shortcuts) error
}

// Directory is what the hosts know in common; see package directory.
type Directory interface {
	Found(ctx context.Context, n directory.Network, vni bool, wanted []uint32) (directory.Network, error)
	Join(ctx context.Context, uuid string) (directory.Network, error)
	Named(name string) (directory.Network, bool)
	Lookup(ctx context.Context, name string) (n directory.Network, ok bool, err error)
	Attend(n directory.Network)
	Forsake(uuid string)
	Publish(uuid string, e directory.Endpoint)
	Withdraw(uuid, id string)
	Follows(uuid string) bool
	Remembered(uuid string) []netip.Addr
	Endpoints(uuid string) []directory.Endpoint
}

// Addresses gives this host addresses of its own on its networks.
type Addresses interface {
	// HostAddresses returns those that it has, and those of them that are another host's
	// by now; TakeHostAddresses takes missing ones, and others for the lost.
	HostAddresses(network string) (own, lost []netip.Prefix)
	TakeHostAddresses(ctx context.Context, network string) ([]netip.Prefix, error)
	// Shared returns the domain of the addresses of a new network's subnet, "" for that of
	// all that name none; an error if the hosts do not share them.
	Shared(network string, subnet netip.Prefix) (domain string, err error)
}

// Config is what [New] takes. All but Directory, Port, DirectSafe and Logger are
// required.
type Config struct {
	Kernel   Kernel
	Firewall Firewall
	Ports    bridged.Ports
	Later    bridged.Later
	// Directory is nil on a host that shares no store: then every new network is refused.
	Directory Directory
	Addresses Addresses
	// Me is this host's id, Underlay the address by which other hosts reach it, the zero
	// address if that is not known.
	Me       func() ownership.Host
	Underlay func() netip.Addr
	// Peers are the underlay addresses of the other hosts, as far as they are known; nil
	// means that none is.
	Peers func() []netip.Addr
	// Moved, if not nil, is called after Underlay changed.
	Moved func()
	// Port is the UDP port of the tunnels, the same on all hosts; 0 means DefaultPort.
	Port uint16
	// DirectSafe is that of [bridged.Config].
	DirectSafe func() (ok bool, why string)
	Logger     *slog.Logger
}

// A Kind makes overlay networks. [Kind.Run] has to run.
type Kind struct {
	*bridged.Endpoints
	cfg   Config
	alone bool // without a store
	log   *slog.Logger
	wake  chan struct{}

	mu sync.Mutex
	// tunnels are the networks that this host programs, by UUID.
	tunnels map[string]*tunnel
	dirty   map[string]bool // networks to be programmed, by UUID
	// underlay is the address that was seen last; own are those of the links, as of ownSeen.
	underlay netip.Addr
	own      map[netip.Addr]bool
	ownSeen  time.Time
}

var (
	_ driver.Kind     = (*Kind)(nil)
	_ driver.Rebinder = (*Kind)(nil)
	_ driver.Router   = (*Kind)(nil)
)

// New makes the kind.
func New(cfg Config) *Kind {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Port == 0 {
		cfg.Port = DefaultPort
	}
	alone := cfg.Directory == nil
	if alone {
		cfg = cfg.withoutStore()
	}
	return &Kind{
		alone: alone, cfg: cfg, log: cfg.Logger, wake: make(chan struct{}, 1), tunnels: map[string]*tunnel{}, dirty: map[string]bool{},
		Endpoints: bridged.New(bridged.Config{
			Kernel: cfg.Kernel, Firewall: cfg.Firewall, Ports: cfg.Ports, Later: cfg.Later,
			DirectSafe: cfg.DirectSafe, Logger: cfg.Logger, Settings: settings,
			Seed: func(n driver.Network) string { return n.Shared.MACSeed() },
		}),
	}
}

// SkipGateway says that every overlay network that is not internal has a gateway, and
// an internal one none.
func (k *Kind) SkipGateway(_ map[string]string, internal bool) (v4, v6 bool) {
	return internal, internal
}

package bridge

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/weft-net/weft/driver/bridged"
	"github.com/weft-net/weft/internal/firewall"
	"github.com/weft-net/weft/internal/kernel"

	"github.com/weft-net/weft/driver"
)

// Kernel is what bridge networks need of the kernel.
type Kernel interface {
	bridged.Kernel
	EnsureBridge(b kernel.Bridge) (made bool, err error)
	RemoveAddrs(name string, addrs []netip.Prefix) error
}

// Firewall is what bridge networks tell the firewall.
type Firewall interface {
	bridged.Firewall
	AddNetwork(ctx context.Context, n firewall.Network) error
	RemoveNetwork(ctx context.Context, id string) error
}

// Config is what [New] takes. Kernel, Firewall, Ports and Later are required.
type Config struct {
	Kernel   Kernel
	Firewall Firewall
	Ports    bridged.Ports
	Later    bridged.Later
	// Seed makes MAC addresses differ between clusters.
	Seed string
	// DirectSafe is that of [bridged.Config].
	DirectSafe func() (ok bool, why string)
	Logger     *slog.Logger
}

// A Kind makes bridge networks. It keeps no state of its own.
type Kind struct {
	*bridged.Endpoints
	cfg Config
}

var (
	_ driver.Kind   = (*Kind)(nil)
	_ driver.Router = (*Kind)(nil)
)

// New makes the kind.
func New(cfg Config) *Kind {
	return &Kind{cfg: cfg, Endpoints: bridged.New(bridged.Config{
		Kernel: cfg.Kernel, Firewall: cfg.Firewall, Ports: cfg.Ports, Later: cfg.Later,
		Seed: func(driver.Network) string { return cfg.Seed }, DirectSafe: cfg.DirectSafe, Logger: cfg.Logger,
		Settings: func(n driver.Network) bridged.Settings { return parse(n.Options).Settings },
	})}
}

// SkipGateway says that an isolated network has no gateway.
func (k *Kind) SkipGateway(options map[string]string, internal bool) (v4, v6 bool) {
	s := parse(options)
	return internal && s.Mode4 == firewall.ModeIsolated, internal && s.Mode6 == firewall.ModeIsolated
}

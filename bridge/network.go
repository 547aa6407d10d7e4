package bridge

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/driver/bridged"
	"github.com/weft-net/weft/internal/firewall"
	"github.com/weft-net/weft/internal/kernel"
)

// PlanNetwork checks options, addresses and the bridge's name.
func (k *Kind) PlanNetwork(_ context.Context, n driver.Network, others []driver.Network) (driver.Network, error) {
	s := parse(n.Options)
	if err := check(n, s); err != nil {
		return n, err
	}
	n.Device = s.Name
	if n.Device == "" {
		n.Device = driver.PrefixBridge + n.ID[:min(12, len(n.ID))]
	}
	n, err := k.planDevice(n, s, others)
	if err != nil {
		return n, err
	}
	if err := bridged.OverlapNetworks(n, others); err != nil {
		return n, err
	}
	return n, k.OverlapRoutes(n)
}

// planDevice decides whether the bridge is made or adopted.
func (k *Kind) planDevice(n driver.Network, s Settings, others []driver.Network) (driver.Network, error) {
	for _, o := range others {
		if o.Device == n.Device {
			return n, driver.WithHint(fmt.Errorf("%w: networks have same bridge name: %s is the bridge of network %.12s", driver.ErrConflict, n.Device, o.ID),
				"choose another name with -o %s", optName)
		}
	}
	if driver.DockerBridge(kernel.Link{Name: n.Device, Kind: "bridge"}) {
		return n, driver.WithHint(fmt.Errorf("%w: %s is a name of the engine's own bridges", driver.ErrConflict, n.Device),
			"choose another name with -o %s", optName)
	}
	links, err := k.cfg.Kernel.Links()
	if err != nil {
		return n, err
	}
	i := slices.IndexFunc(links, func(l kernel.Link) bool { return l.Name == n.Device })
	if i < 0 {
		return n, nil
	}
	if links[i].Kind != "bridge" {
		return n, driver.WithHint(fmt.Errorf("%w: the device %s exists and is not a bridge that can be adopted", driver.ErrConflict, n.Device),
			"choose another name with -o %s", optName)
	}
	if driver.Ours(links[i]) {
		return n, nil // left by a crash; nobody was promised it
	}
	n.Adopted = true
	have, err := k.cfg.Kernel.Sysctl(routeLocalnet(n.Device))
	n.AddedLocalnet = err == nil && have == "0" && localnet(n, s)
	addrs, err := k.cfg.Kernel.Addresses()
	if err != nil {
		return n, err
	}
	for _, want := range bridgeAddrs(n, s) {
		if !slices.ContainsFunc(addrs, func(a kernel.Address) bool { return a.Link == links[i].Index && a.Prefix == want }) {
			n.AddedAddrs = append(n.AddedAddrs, want)
		}
	}
	return n, nil
}

// localnet says whether the host reaches published ports at 127.0.0.1 through
// this bridge.
func localnet(n driver.Network, s Settings) bool {
	return s.Publish == bridged.PublishNative && len(n.IPv4) > 0
}

func routeLocalnet(device string) string { return "net/ipv4/conf/" + device + "/route_localnet" }

// bridgeAddrs are the addresses that the bridge should carry.
func bridgeAddrs(n driver.Network, s Settings) []netip.Prefix {
	var out []netip.Prefix
	add := func(list []driver.Subnet, mode firewall.Mode) {
		for _, sub := range list {
			if sub.Gateway.IsValid() && mode != firewall.ModeIsolated {
				out = append(out, netip.PrefixFrom(sub.Gateway, sub.Pool.Bits()))
			}
		}
	}
	if !s.InhibitIPv4 {
		add(n.IPv4, s.Mode4)
	}
	add(n.IPv6, s.Mode6)
	return out
}

// EnsureNetwork makes firewall and bridge; the firewall first, so
// that nothing passes before it may, and that the drop of 127.0.0.0/8 is there
// before the bridge routes it.
func (k *Kind) EnsureNetwork(ctx context.Context, n driver.Network) error {
	s := parse(n.Options)
	if err := k.cfg.Firewall.AddNetwork(ctx, bridged.FirewallNetwork(n, s.Settings)); err != nil {
		return err
	}
	b := kernel.Bridge{
		Name: n.Device, Alias: "weft network " + n.ID, MTU: s.MTU, Addrs: bridgeAddrs(n, s), IPv6: len(n.IPv6) > 0,
		RouteLocalnet: localnet(n, s), Adopt: n.Adopted, MAC: driver.MAC(k.cfg.Seed+n.ID, netip.Addr{}),
	}
	if len(n.IPv4) > 0 && n.IPv4[0].Gateway.IsValid() {
		b.MAC = driver.MAC(k.cfg.Seed, n.IPv4[0].Gateway)
	}
	_, err := k.cfg.Kernel.EnsureBridge(b)
	return err
}

// RemoveNetwork takes bridge and rules away; an adopted bridge keeps what it had.
func (k *Kind) RemoveNetwork(ctx context.Context, n driver.Network) error {
	var errs []error
	if n.AddedLocalnet { // before the rule goes that keeps 127.0.0.0/8 closed
		_, err := k.cfg.Kernel.EnsureSysctl(kernel.Sysctl{Key: routeLocalnet(n.Device), Value: "0"})
		if !errors.Is(err, kernel.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	if n.Adopted {
		errs = append(errs, k.cfg.Kernel.RemoveAddrs(n.Device, n.AddedAddrs))
	} else {
		errs = append(errs, k.cfg.Kernel.DeleteLink(n.Device))
	}
	return errors.Join(errors.Join(errs...), k.cfg.Firewall.RemoveNetwork(ctx, n.ID))
}

// Check compares bridge and ports with the kernel.
func (k *Kind) Check(a driver.Actual, n driver.Network, eps []driver.Endpoint) []string {
	s := parse(n.Options)
	br, ok := a.Links[n.Device]
	if !ok {
		return []string{fmt.Sprintf("bridge %s of network %.12s was missing", n.Device, n.ID)}
	}
	var out []string
	if !br.Up {
		out = append(out, fmt.Sprintf("bridge %s was down", n.Device))
	}
	for _, want := range bridgeAddrs(n, s) {
		if !slices.ContainsFunc(a.Addresses[n.Device], func(x kernel.Address) bool { return x.Prefix == want }) {
			out = append(out, fmt.Sprintf("bridge %s had lost its address %s", n.Device, want))
		}
	}
	return append(out, bridged.CheckPorts(a, br, eps)...)
}

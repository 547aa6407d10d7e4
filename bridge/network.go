package bridge

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weft-net/weft/driver"
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
	if err := overlapNetworks(n, others); err != nil {
		return n, err
	}
	return n, k.overlapRoutes(n)
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
	return s.Publish == publishNative && len(n.IPv4) > 0
}

func routeLocalnet(device string) string { return "net/ipv4/conf/" + device + "/route_localnet" }

func overlapNetworks(n driver.Network, others []driver.Network) error {
	for _, o := range others {
		for _, a := range n.Subnets() {
			for _, b := range o.Subnets() {
				if a.Pool.Overlaps(b.Pool) {
					return driver.WithHint(fmt.Errorf("%w: networks have overlapping %s: %s overlaps %s of network %.12s", driver.ErrConflict,
						family(a.Pool), a.Pool, b.Pool, o.ID), "choose another --subnet, or remove that network")
				}
			}
		}
	}
	return nil
}

func family(p netip.Prefix) string {
	if p.Addr().Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// overlapRoutes refuses a subnet that the host reaches by another way. The
// default route and the routes of an adopted bridge do not count.
func (k *Kind) overlapRoutes(n driver.Network) error {
	routes, err := k.cfg.Kernel.Routes()
	if err != nil {
		return err
	}
	links, err := k.cfg.Kernel.Links()
	if err != nil {
		return err
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Index] = l.Name
	}
	for _, r := range routes {
		// Halves of the default route are a default route (VPNs make them).
		if r.Dst.Bits() <= 1 || names[r.Link] == n.Device || r.Dst.Addr().IsLinkLocalUnicast() || r.Dst.Addr().IsMulticast() {
			continue
		}
		for _, s := range n.Subnets() {
			if s.Pool.Overlaps(r.Dst) {
				return driver.WithHint(fmt.Errorf("%w: subnet %s overlaps the host's route to %s by %s", driver.ErrConflict, s.Pool, r.Dst, names[r.Link]),
					"choose another --subnet")
			}
		}
	}
	return nil
}

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

// EnsureNetwork makes firewall, bridge and forwarding; the firewall first, so
// that nothing passes before it may, and that the drop of 127.0.0.0/8 is there
// before the bridge routes it.
func (k *Kind) EnsureNetwork(ctx context.Context, n driver.Network) error {
	s := parse(n.Options)
	if err := k.cfg.Firewall.AddNetwork(ctx, firewallNetwork(n, s)); err != nil {
		return err
	}
	b := kernel.Bridge{
		Name: n.Device, Alias: "weft network " + n.ID, MTU: s.MTU, Addrs: bridgeAddrs(n, s), IPv6: len(n.IPv6) > 0,
		RouteLocalnet: localnet(n, s), Adopt: n.Adopted, MAC: driver.MAC(k.cfg.Seed+n.ID, netip.Addr{}),
	}
	if len(n.IPv4) > 0 && n.IPv4[0].Gateway.IsValid() {
		b.MAC = driver.MAC(k.cfg.Seed, n.IPv4[0].Gateway)
	}
	if _, err := k.cfg.Kernel.EnsureBridge(b); err != nil {
		return err
	}
	if n.Internal {
		return nil
	}
	return k.enableForwarding(len(n.IPv4) > 0, len(n.IPv6) > 0)
}

// enableForwarding lets the host forward. With IPv6 forwarding the kernel stops
// to heed router advertisements, so uplinks that live from them get accept_ra=2.
func (k *Kind) enableForwarding(v4, v6 bool) error {
	if v4 {
		if err := k.turnOn(kernel.Sysctl{Key: "net.ipv4.ip_forward", Value: "1"}); err != nil {
			return err
		}
	}
	const forwarding = "net.ipv6.conf.all.forwarding"
	if have, err := k.cfg.Kernel.Sysctl(forwarding); !v6 || err == nil && have == "1" {
		return nil
	}
	links, err := k.cfg.Kernel.Links()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Loopback || l.Master != 0 || driver.Ours(l) || driver.DockerBridge(l) {
			continue
		}
		// 0 is somebody's decision; a device that went away meanwhile, or one
		// without IPv6, has no value.
		key := "net/ipv6/conf/" + l.Name + "/accept_ra"
		if have, err := k.cfg.Kernel.Sysctl(key); err != nil || have != "1" {
			continue
		}
		_, err := k.cfg.Kernel.EnsureSysctl(kernel.Sysctl{Key: key, Value: "2"})
		if err != nil && !errors.Is(err, kernel.ErrNotFound) {
			return err
		}
	}
	return k.turnOn(kernel.Sysctl{Key: forwarding, Value: "1"})
}

func (k *Kind) turnOn(s kernel.Sysctl) error {
	changed, err := k.cfg.Kernel.EnsureSysctl(s)
	if changed && err == nil {
		k.log.Info("the host forwards now", "sysctl", s.Key)
	}
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

// Facts tells the firewall of a network and its published ports.
func (k *Kind) Facts(n driver.Network, eps []driver.Endpoint) firewall.Facts {
	s := parse(n.Options)
	f := firewall.Facts{Networks: []firewall.Network{firewallNetwork(n, s)}}
	for _, ep := range eps {
		ports, open := firewallPorts(n, s, ep)
		f.Ports, f.Open = append(f.Ports, ports...), append(f.Open, open...)
	}
	return f
}

func firewallNetwork(n driver.Network, s Settings) firewall.Network {
	out := firewall.Network{ID: n.ID, Bridge: n.Device, Internal: n.Internal, ICC: s.ICC, Masquerade: s.Masquerade, Trusted: s.Trusted}
	for _, sub := range n.IPv4 {
		out.IPv4 = append(out.IPv4, firewall.Family{Subnet: sub.Pool, Mode: s.Mode4, SNAT: s.Host4})
	}
	for _, sub := range n.IPv6 {
		out.IPv6 = append(out.IPv6, firewall.Family{Subnet: sub.Pool, Mode: s.Mode6, SNAT: s.Host6})
	}
	return out
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
	for _, ep := range eps {
		l, ok := a.Links[ep.HostLink]
		if !ok {
			continue // its sandbox is gone, or nobody can mend it
		}
		if l.Master != br.Index {
			out = append(out, fmt.Sprintf("link %s of endpoint %.12s was not in bridge %s", l.Name, ep.ID, n.Device))
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

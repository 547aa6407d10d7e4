package bridged

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/firewall"
	"github.com/weft-net/weft/internal/hostport"
	"github.com/weft-net/weft/internal/kernel"
)

const protoUDP = 17

// Publish opens the endpoint's ports, instead of those it had. With
// publish=docker the engine does it, and nothing is to do here.
func (e *Endpoints) Publish(ctx context.Context, n driver.Network, ep driver.Endpoint, bindings []driver.Binding) (driver.Endpoint, error) {
	s := e.cfg.Settings(n)
	if len(ep.Ports)+len(ep.Bindings) > 0 {
		if err := e.Unpublish(ctx, n, ep); err != nil {
			return ep, err
		}
	}
	ep.Ports, ep.Bindings = nil, bindings
	if s.Publish != PublishNative || n.Internal {
		return ep, nil
	}
	for _, b := range bindings {
		ports, err := e.reserve(s, ep, b)
		if err != nil {
			return ep, err
		}
		ep.Ports = append(ep.Ports, ports...)
	}
	if err := e.cfg.Kernel.EnsurePort(kernel.Veth{Host: ep.HostLink, Bridge: n.Device, Hairpin: true, Down: ep.Off}); err != nil && !errors.Is(err, kernel.ErrNotFound) {
		return ep, err
	}
	ports, open := firewallPorts(n, s, ep)
	if err := e.cfg.Firewall.AddPorts(ctx, ports, open); err != nil {
		return ep, err
	}
	return ep, e.forgetStale(ep)
}

// reserve takes the host's ports of one binding. A routed family has none: its
// container port is opened as it is.
func (e *Endpoints) reserve(s Settings, ep driver.Endpoint, b driver.Binding) ([]driver.Port, error) {
	wants := wanted(s, ep, b)
	if len(wants) == 0 {
		return nil, nil
	}
	got, err := e.cfg.Ports.Reserve(hostport.Request{Owner: ep.ID, Proto: b.Proto, Want: wants, First: b.HostPort, Last: b.HostPortEnd})
	if err != nil {
		return nil, err
	}
	out := make([]driver.Port, len(got))
	for i, m := range got {
		out[i] = driver.Port{Proto: b.Proto, Host: m.Host, Container: m.Container}
	}
	return out, nil
}

// wanted are the host addresses of a binding and where each leads. Without an
// address of its own a port answers at every address of both families; IPv6
// reaches a container that has only IPv4 through a proxy.
func wanted(s Settings, ep driver.Endpoint, b driver.Binding) []hostport.Want {
	hosts := []netip.Addr{b.HostIP}
	if !b.HostIP.IsValid() {
		hosts = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
		if s.Binding4.IsValid() {
			hosts[0] = s.Binding4
		}
		if s.Binding6.IsValid() {
			hosts[1] = s.Binding6
		} else if s.Binding4.IsValid() && !s.Binding4.IsUnspecified() {
			hosts = hosts[:1] // one IPv4 address was asked for, not the world
		}
	}
	var out []hostport.Want
	for _, h := range hosts {
		target, mode := ep.IPv4.Addr(), s.Mode4
		if h.Is6() {
			target, mode = ep.IPv6.Addr(), s.Mode6
			if !target.IsValid() && !b.NoProxy6To4 && b.Proto != protoSCTP {
				target, mode = ep.IPv4.Addr(), s.Mode4
			}
		}
		if target.IsValid() && mode != firewall.ModeRouted && mode != firewall.ModeIsolated {
			out = append(out, hostport.Want{Host: h, Container: netip.AddrPortFrom(target, b.Port)})
		}
	}
	return out
}

const protoSCTP = 132

// firewallPorts are the rules of an endpoint's ports. Proxied ones need none.
func firewallPorts(n driver.Network, s Settings, ep driver.Endpoint) (ports []firewall.Port, open []firewall.Open) {
	if s.Publish != PublishNative {
		return nil, nil
	}
	for _, p := range ep.Ports {
		if p.Host.Addr().Is4() == p.Container.Addr().Is4() {
			ports = append(ports, firewall.Port{Endpoint: ep.ID, Bridge: n.Device, Proto: firewall.Proto(p.Proto), Host: p.Host, Container: p.Container})
		}
	}
	for _, b := range ep.Bindings {
		if ep.IPv4.IsValid() && (s.Mode4 == firewall.ModeRouted || len(s.Trusted) > 0) {
			open = append(open, firewall.Open{Endpoint: ep.ID, Proto: firewall.Proto(b.Proto), Container: netip.AddrPortFrom(ep.IPv4.Addr(), b.Port)})
		}
		if ep.IPv6.IsValid() && (s.Mode6 == firewall.ModeRouted || len(s.Trusted) > 0) {
			open = append(open, firewall.Open{Endpoint: ep.ID, Proto: firewall.Proto(b.Proto), Container: netip.AddrPortFrom(ep.IPv6.Addr(), b.Port)})
		}
	}
	return ports, open
}

// flows are the conntrack entries of an endpoint's ports: those that the
// container answers.
func flows(ep driver.Endpoint) []kernel.Flow {
	var out []kernel.Flow
	for _, p := range ep.Ports {
		if p.Host.Addr().Is4() == p.Container.Addr().Is4() {
			out = append(out, kernel.Flow{Proto: p.Proto, Dst: p.Host, Reply: p.Container.Addr()})
		}
	}
	return out
}

// forgetStale drops what conntrack remembers of UDP clients that asked before
// the port was open: their packets would go on to the host itself. It names the
// host's addresses one by one, because a port alone is also that of unrelated
// connections through this host.
func (e *Endpoints) forgetStale(ep driver.Endpoint) error {
	isUDP := func(p driver.Port) bool { return p.Proto == protoUDP }
	if !slices.ContainsFunc(ep.Ports, isUDP) {
		return nil
	}
	addrs, err := e.cfg.Kernel.Addresses()
	if err != nil {
		return err
	}
	for _, p := range ep.Ports {
		if !isUDP(p) {
			continue
		}
		for _, a := range addrs {
			local := a.Prefix.Addr()
			if local.Is4() == p.Host.Addr().Is4() && (local == p.Host.Addr() || p.Host.Addr().IsUnspecified()) {
				at := netip.AddrPortFrom(local, p.Host.Port())
				e.cfg.Later.Forget(kernel.Flow{Proto: p.Proto, Dst: at, Reply: local})
			}
		}
	}
	return nil
}

// Unpublish closes the endpoint's ports; without any it is success.
func (e *Endpoints) Unpublish(ctx context.Context, _ driver.Network, ep driver.Endpoint) error {
	err := e.cfg.Firewall.RemovePorts(ctx, ep.ID)
	e.cfg.Ports.Release(ep.ID)
	e.cfg.Later.Forget(flows(ep)...)
	if err != nil {
		return fmt.Errorf("close ports of endpoint %.12s: %w", ep.ID, err)
	}
	return nil
}

// Restore reserves an endpoint's ports again after a restart of weft. A port
// that somebody took meanwhile is reported; its rules still lead to the container.
func (e *Endpoints) Restore(_ context.Context, _ driver.Network, ep driver.Endpoint) error {
	var errs []error
	for _, p := range ep.Ports {
		_, err := e.cfg.Ports.Reserve(hostport.Request{
			Owner: ep.ID, Proto: p.Proto, First: p.Host.Port(), Last: p.Host.Port(),
			Want: []hostport.Want{{Host: p.Host.Addr(), Container: p.Container}},
		})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

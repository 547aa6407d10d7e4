package bridged

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/firewall"
	"github.com/weft-net/weft/internal/kernel"
)

// HostLink is the name of the host's end of an endpoint's link.
func HostLink(endpoint string) string { return driver.PrefixHost + short(endpoint) }

func short(id string) string { return id[:min(12, len(id))] }

// PlanEndpoint names the links and derives the MAC address that nobody chose.
func (e *Endpoints) PlanEndpoint(n driver.Network, ep driver.Endpoint) (driver.Endpoint, error) {
	ep.HostLink, ep.PeerLink = HostLink(ep.ID), driver.PrefixPeer+short(ep.ID)
	if ep.MAC == "" {
		ep.MAC = driver.EndpointMAC(e.cfg.Seed(n), ep).String()
	}
	return ep, driver.CheckInterface(ep, e.cfg.Settings(n).Attach == driver.AttachDirect)
}

// Join makes the endpoint's link and decides who publishes its ports.
func (e *Endpoints) Join(_ context.Context, n driver.Network, ep driver.Endpoint) (driver.Endpoint, driver.JoinAnswer, error) {
	s := e.cfg.Settings(n)
	byEngine := s.Publish == PublishDocker && len(ep.Wanted) > 0 && !n.Internal
	if byEngine && !ep.IPv4.IsValid() {
		return ep, driver.JoinAnswer{}, driver.WithHint(fmt.Errorf("%w: the engine publishes ports over IPv4 only, and this network has none", driver.ErrOption),
			"create the network with -o publish=native")
	}
	answer := gateways(n, s, byEngine)
	mac, err := net.ParseMAC(ep.MAC)
	if err != nil {
		return ep, answer, fmt.Errorf("endpoint %.12s: %w", ep.ID, err)
	}
	v := kernel.Veth{Host: ep.HostLink, Peer: ep.PeerLink, Bridge: n.Device, MTU: s.MTU, MAC: mac, Isolated: !s.ICC, Down: ep.Off}
	place := driver.Placement{Wanted: s.Attach, Prefix: s.Prefix, Safe: e.cfg.DirectSafe, ByEngine: byEngine, Exists: e.cfg.Kernel.SandboxExists}
	ep.Attach, ep.AttachWhy = place.Of(ep)
	if err := driver.CheckIfname(ep); err != nil {
		return ep, answer, err
	}
	if ep.Attach == driver.AttachDocker {
		answer.SrcName, answer.DstPrefix = ep.PeerLink, s.Prefix
		return ep, answer, e.cfg.Kernel.AddVeth(v)
	}
	settings, err := driver.DirectSysctls(ep)
	if err != nil {
		return ep, answer, err
	}
	v.Peer = ep.DriverOpts[driver.OptIfname]
	err = e.attachDirect(kernel.Attachment{Veth: v, Sandbox: ep.Sandbox, Prefix: driver.DirectPrefix, Addrs: ep.Addrs(), Sysctls: settings})
	return ep, answer, err
}

// attachDirect makes the link in the sandbox. A link of a Join that was
// answered before is this endpoint's and stays; one that a Leave has doomed is
// deleted at once, because its name is needed again.
func (e *Endpoints) attachDirect(a kernel.Attachment) error {
	_, err := e.cfg.Kernel.Attach(a)
	if !errors.Is(err, kernel.ErrExists) {
		return err
	}
	l, lookup := e.cfg.Kernel.LinkByName(a.Host)
	if lookup != nil {
		return err // the name is taken inside the sandbox
	}
	if l.Group != kernel.DoomedGroup {
		return nil
	}
	if err := e.cfg.Kernel.DeleteLink(a.Host); err != nil {
		return err
	}
	_, err = e.cfg.Kernel.Attach(a)
	return err
}

// gateways are the routes of an endpoint. One whose ports the engine publishes
// gets none, so that the engine adds docker_gwbridge; its way out over IPv6,
// which docker_gwbridge does not have, is two halves of the default route,
// because the engine takes ::/0 for a gateway.
func gateways(n driver.Network, s Settings, byEngine bool) driver.JoinAnswer {
	var a driver.JoinAnswer
	if n.Internal {
		return a
	}
	if len(n.IPv4) > 0 && s.Mode4 != firewall.ModeIsolated && !byEngine {
		a.Gateway4 = n.IPv4[0].Router()
	}
	if len(n.IPv6) > 0 && s.Mode6 != firewall.ModeIsolated {
		router := n.IPv6[0].Router()
		if !byEngine {
			a.Gateway6 = router
		} else if router.IsValid() {
			for _, half := range []string{"::/1", "8000::/1"} {
				a.Routes = append(a.Routes, driver.Route{Destination: netip.MustParsePrefix(half), NextHop: router})
			}
		}
	}
	a.NoGatewayService = !byEngine && !a.Gateway4.IsValid() && !a.Gateway6.IsValid()
	return a
}

// Leave takes a direct link away. A link that the engine moved comes back to
// the host and waits there for the next Join or for RemoveEndpoint.
func (e *Endpoints) Leave(_ context.Context, _ driver.Network, ep driver.Endpoint) error {
	if ep.Attach != driver.AttachDirect {
		return nil
	}
	return e.cfg.Later.Delete(ep.HostLink)
}

// RemoveEndpoint takes the pair away.
func (e *Endpoints) RemoveEndpoint(_ context.Context, _ driver.Network, ep driver.Endpoint) error {
	return e.cfg.Later.Delete(ep.HostLink)
}

// EnsureEndpoint mends the bridge port of a joined endpoint.
func (e *Endpoints) EnsureEndpoint(_ context.Context, n driver.Network, ep driver.Endpoint) error {
	s := e.cfg.Settings(n)
	err := e.cfg.Kernel.EnsurePort(kernel.Veth{Host: ep.HostLink, Bridge: n.Device, Isolated: !s.ICC, Hairpin: len(ep.Ports) > 0, Down: ep.Off})
	if errors.Is(err, kernel.ErrNotFound) {
		return nil
	}
	return err
}

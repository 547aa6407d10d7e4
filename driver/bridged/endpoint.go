package bridged

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

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
	if seed := e.cfg.Seed(n); ep.MAC == "" {
		switch {
		case ep.IPv4.IsValid():
			ep.MAC = driver.MAC(seed, ep.IPv4.Addr()).String()
		case ep.IPv6.IsValid():
			ep.MAC = driver.MAC(seed, ep.IPv6.Addr()).String()
		default:
			ep.MAC = driver.MAC(seed+ep.ID, netip.Addr{}).String()
		}
	}
	mac, err := net.ParseMAC(ep.MAC)
	if err != nil {
		return ep, fmt.Errorf("%w: MAC address %q: %w", driver.ErrOption, ep.MAC, err)
	}
	if len(mac) != 6 || mac[0]&1 != 0 {
		return ep, fmt.Errorf("%w: MAC address %q: it is not the address of one Ethernet interface (the first byte must be even)", driver.ErrOption, ep.MAC)
	}
	if _, err := sysctls(ep); err != nil {
		return ep, err
	}
	name, s := ep.DriverOpts[optIfname], e.cfg.Settings(n)
	if name != "" && s.Attach != driver.AttachDirect {
		return ep, driver.WithHint(fmt.Errorf("%w: %s=%q: the engine names the interfaces that it moves", driver.ErrOption, optIfname, name),
			"create the network with -o attach=direct, or set -o %s", OptPrefix)
	}
	return ep, nil
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
	ep.Attach, ep.AttachWhy = e.attach(s, ep, byEngine)
	if name := ep.DriverOpts[optIfname]; name != "" && ep.Attach == driver.AttachDocker {
		return ep, answer, driver.WithHint(fmt.Errorf("%w: %s=%q: attach=direct is not used here: %s", driver.ErrOption, optIfname, name, ep.AttachWhy),
			"leave the name out")
	}
	if ep.Attach == driver.AttachDocker {
		answer.SrcName, answer.DstPrefix = ep.PeerLink, s.Prefix
		return ep, answer, e.cfg.Kernel.AddVeth(v)
	}
	settings, err := sysctls(ep)
	if err != nil {
		return ep, answer, err
	}
	if !ep.IPv6.IsValid() {
		settings = append([]kernel.Sysctl{{Key: "net.ipv6.conf.IFNAME.disable_ipv6", Value: "1"}}, settings...)
	}
	v.Peer = ep.DriverOpts[optIfname]
	err = e.attachDirect(kernel.Attachment{Veth: v, Sandbox: ep.Sandbox, Prefix: directPrefix, Addrs: ep.Addrs(), Sysctls: settings})
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

// attach decides who puts the link into the sandbox.
func (e *Endpoints) attach(s Settings, ep driver.Endpoint, byEngine bool) (driver.Attach, string) {
	if s.Attach != driver.AttachDirect {
		return driver.AttachDocker, ""
	}
	name := ep.DriverOpts[optIfname]
	switch ok, why := e.cfg.DirectSafe(); {
	case !ok:
		return driver.AttachDocker, why
	case byEngine:
		return driver.AttachDocker, "the engine publishes its ports (publish=docker)"
	case s.Prefix != defaultPrefix:
		return driver.AttachDocker, "the network names its interfaces (" + OptPrefix + ")"
	case strings.HasPrefix(name, defaultPrefix):
		return driver.AttachDocker, "the engine's next interface could be called " + name
	case !e.cfg.Kernel.SandboxExists(ep.Sandbox):
		return driver.AttachDocker, "the sandbox was not there yet (engine before 28)"
	}
	return driver.AttachDirect, ""
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

// sysctls types the endpoint's --driver-opt …endpoint.sysctls.
func sysctls(ep driver.Endpoint) ([]kernel.Sysctl, error) {
	text := ep.DriverOpts[optSysctls]
	if text == "" {
		return nil, nil
	}
	var out []kernel.Sysctl
	for item := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(item, "=")
		// `docker run --network name=…,driver-opt=…` puts all of it in small letters.
		key = strings.Replace(key, ".ifname.", ".IFNAME.", 1)
		if !ok || !strings.HasPrefix(key, "net.") || !strings.Contains(key, ".IFNAME.") || strings.Contains(key, "/") {
			return nil, fmt.Errorf("%w: %s: %q: use net.ipv4.conf.IFNAME.name=value, comma-separated", driver.ErrOption, optSysctls, item)
		}
		out = append(out, kernel.Sysctl{Key: key, Value: value})
	}
	return out, nil
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

package parented

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/kernel"
)

// alias is by what an endpoint's device is found in its sandbox.
func alias(ep driver.Endpoint) string { return "weft endpoint " + ep.ID }

// PlanEndpoint names the device and decides about the MAC address.
func (k *Kind) PlanEndpoint(n driver.Network, ep driver.Endpoint) (driver.Endpoint, error) {
	ep.PeerLink = driver.PrefixPeer + short(ep.ID)
	switch {
	case !k.sort.OwnMAC && ep.MAC != "":
		return ep, driver.WithHint(fmt.Errorf("%w: MAC address %q: containers of %s networks have that of the parent", driver.ErrOption, ep.MAC, n.Mode),
			"leave --mac-address out, or use -o mode=%s", kernel.Macvlan)
	case ep.MAC != "" || !k.sort.OwnMAC:
	case k.sort.Alone(n):
		l, err := k.cfg.Kernel.LinkByName(n.Device)
		if err != nil {
			return ep, fmt.Errorf("parent %s of network %.12s: %w", n.Device, n.ID, err)
		}
		ep.MAC = l.MAC.String()
	default:
		ep.MAC = driver.EndpointMAC(k.seed(n), ep).String()
	}
	return ep, driver.CheckInterface(ep, parse(n.Options).attach == driver.AttachDirect)
}

// seed makes MAC addresses differ between the lines that one host is on, and be the same
// on all hosts of a network of the cluster, and on whatever device a network rests later.
func (k *Kind) seed(n driver.Network) string {
	words := n.Options[OptParent]
	switch {
	case n.Shared != nil:
		return n.Shared.MACSeed()
	case described(n):
		return k.cfg.Seed + "/" + words + "/" + n.Options[OptVLAN]
	}
	return k.cfg.Seed + "/" + n.Device
}

// Join makes the endpoint's device on the parent.
func (k *Kind) Join(ctx context.Context, n driver.Network, ep driver.Endpoint) (driver.Endpoint, driver.JoinAnswer, error) {
	s := parse(n.Options)
	if ep.Joined && ep.Attach == driver.AttachDirect { // a Join without a Leave
		if err := k.cfg.Kernel.DetachChild(ep.Sandbox, alias(ep)); err != nil {
			return ep, driver.JoinAnswer{}, err
		}
	}
	place := driver.Placement{Wanted: s.attach, Prefix: s.prefix, Safe: k.cfg.DirectSafe, Exists: k.cfg.Kernel.SandboxExists}
	ep.Attach, ep.AttachWhy = place.Of(ep)
	if err := driver.CheckIfname(ep); err != nil {
		return ep, driver.JoinAnswer{}, err
	}
	child, err := k.child(n, ep)
	if err != nil {
		return ep, driver.JoinAnswer{}, err
	}
	answer := k.answer(n, ep)
	if ep.Attach == driver.AttachDocker {
		answer.SrcName, answer.DstPrefix = ep.PeerLink, s.prefix
	}
	build := func() error {
		if err := k.checkMAC(n, ep); err != nil {
			return err
		}
		switch err := k.admit(ctx, n, ep); {
		case err != nil:
			return err
		case ep.Attach == driver.AttachDocker:
			return k.evenIfBusy(func() error { return k.add(child) })
		}
		return k.evenIfBusy(func() error { return k.attach(child, n, ep) })
	}
	err = build()
	if errors.Is(err, kernel.ErrNotFound) { // after a boot this may come before reconcile made the sub-interface
		if err = k.cfg.Parents.ensure(n); err == nil {
			err = build()
		}
	}
	if err != nil {
		k.rise(ep)
		return ep, answer, errors.Join(k.explain(err, n), k.expel(n, ep))
	}
	k.joined(n, ep, child.MAC)
	return ep, answer, nil
}

// child is the device of an endpoint.
func (k *Kind) child(n driver.Network, ep driver.Endpoint) (kernel.Child, error) {
	c := kernel.Child{Kind: k.sort.Kind, Name: ep.PeerLink, Alias: alias(ep), Parent: n.Device, MTU: parse(n.Options).mtu}
	c.Mode, c.Flag = k.sort.Style(n.Options)
	if ep.MAC == "" {
		return c, nil
	}
	var err error
	if c.MAC, err = net.ParseMAC(ep.MAC); err != nil {
		return c, fmt.Errorf("endpoint %.12s: %w", ep.ID, err)
	}
	return c, nil
}

// add makes the device on the host. One of an earlier Join that is on another parent, or
// waits for its deletion, is deleted first.
func (k *Kind) add(c kernel.Child) error {
	if l, err := k.cfg.Kernel.LinkByName(c.Name); err == nil && l.Group == kernel.DoomedGroup {
		if err := k.cfg.Kernel.DeleteLink(c.Name); err != nil {
			return err
		}
	}
	err := k.cfg.Kernel.AddChild(c)
	if !errors.Is(err, kernel.ErrExists) {
		return err
	}
	if err := k.cfg.Kernel.DeleteLink(c.Name); err != nil {
		return err
	}
	return k.cfg.Kernel.AddChild(c)
}

// attach makes the device in the sandbox.
func (k *Kind) attach(c kernel.Child, n driver.Network, ep driver.Endpoint) error {
	settings, err := driver.DirectSysctls(ep)
	if err != nil {
		return err
	}
	c.Name = ep.DriverOpts[driver.OptIfname]
	_, err = k.cfg.Kernel.AttachChild(kernel.ChildAttachment{
		Child: c, Sandbox: ep.Sandbox, Prefix: driver.DirectPrefix, Addrs: ep.Addrs(), Sysctls: settings,
		Routes: k.routes(n, ep), Silent: k.sort.Routed(n), Down: ep.Off, Hosts: k.hosts(n, ep),
	})
	return err
}

// explain says what a parent that refuses a device means.
func (k *Kind) explain(err error, n driver.Network) error {
	switch {
	case errors.Is(err, kernel.ErrBusy) && k.sort.Alone(n):
		return driver.WithHint(fmt.Errorf("%w: the parent %s bears one container in this mode, and has one: %w", driver.ErrConflict, n.Device, err), "stop that container first")
	case errors.Is(err, kernel.ErrBusy):
		return driver.WithHint(fmt.Errorf("%w: the parent %s is held by something that is not weft's: %w", driver.ErrConflict, n.Device, err), "see `ip -d link`")
	case errors.Is(err, kernel.ErrNotFound):
		return driver.WithHint(fmt.Errorf("network %.12s: its parent %s may be gone: %w", n.ID, n.Device, err), "see `weft status`")
	}
	return err
}

// answer is the way out of an endpoint. A container whose ports another network publishes
// leaves by that one: the engine publishes only where the container leaves.
// docker_gwbridge is kept away, but from containers that publish ports and do not leave by
// this network: it may be the one that does. Who has a router and is asked to publish says
// no in Publish.
func (k *Kind) answer(n driver.Network, ep driver.Endpoint) driver.JoinAnswer {
	var a driver.JoinAnswer
	for _, gw := range k.gateways(n, ep) {
		if ep.PortsElsewhere {
			break
		}
		if gw.Is4() {
			a.Gateway4 = gw
		} else {
			a.Gateway6 = gw
		}
	}
	if ep.Attach == driver.AttachDocker {
		for _, p := range k.routes(n, ep) {
			a.Routes = append(a.Routes, driver.Route{Destination: p})
		}
	}
	a.NoGatewayService = n.Internal || len(ep.Wanted) == 0 || k.sort.Routed(n) || a.Gateway4.IsValid()
	return a
}

// gateways are the routers of an endpoint.
func (k *Kind) gateways(n driver.Network, ep driver.Endpoint) []netip.Addr {
	if n.Internal || k.sort.Routed(n) {
		return nil
	}
	var out []netip.Addr
	for _, p := range ep.Addrs() {
		if gw := gatewayOf(n.Subnets(), p); gw.IsValid() {
			out = append(out, gw)
		}
	}
	return out
}

// routes are the ways out of an endpoint whose host routes: everything leaves by the
// device.
func (k *Kind) routes(n driver.Network, ep driver.Endpoint) []netip.Prefix {
	if n.Internal || !k.sort.Routed(n) {
		return nil
	}
	var out []netip.Prefix
	for _, p := range ep.Addrs() {
		if p.Addr().Is4() {
			out = append(out, netip.PrefixFrom(netip.IPv4Unspecified(), 0))
		} else {
			out = append(out, netip.PrefixFrom(netip.IPv6Unspecified(), 0))
		}
	}
	return out
}

// wayOut says by which network a container leaves if several could: the engine's rule.
const wayOut = "one with a higher gw-priority (engine 28: --network name=NET,gw-priority=1), or else with a name before this one's in the alphabet"

// Publish refuses ports: the container is a machine on the line, and all its ports are
// there anyway. The engine asks the one network by which a container leaves, so another
// one may still publish them.
func (k *Kind) Publish(_ context.Context, n driver.Network, ep driver.Endpoint, bindings []driver.Binding) (driver.Endpoint, error) {
	if len(bindings) == 0 {
		return ep, nil
	}
	b := bindings[0]
	return ep, driver.WithHint(fmt.Errorf("%w: port %d/%s cannot be published on %s network: the container is reached at its own address", driver.ErrOption,
		b.Port, driver.ProtoName(b.Proto), n.Sort()), "leave -p out, or let a bridge or overlay network of the container's be its way out: %s", wayOut)
}

// Leave takes a device out of its sandbox that weft put there. One that the engine moved
// comes back to the host and waits there for the next Join or for RemoveEndpoint.
func (k *Kind) Leave(_ context.Context, n driver.Network, ep driver.Endpoint) error {
	k.left(n, ep)
	expelled := k.expel(n, ep)
	if ep.Attach != driver.AttachDirect {
		return expelled
	}
	finish, err := k.cfg.Kernel.RetireChild(ep.Sandbox, alias(ep))
	if err != nil {
		return errors.Join(expelled, err)
	}
	k.mu.Lock()
	k.finish = append(k.finish, finish)
	ended := k.ended
	k.mu.Unlock()
	k.poke()
	if ended {
		k.deleteRetired()
	}
	return expelled
}

// RemoveEndpoint takes away what is left of the endpoint.
func (k *Kind) RemoveEndpoint(_ context.Context, n driver.Network, ep driver.Endpoint) error {
	k.left(n, ep)
	return errors.Join(k.expel(n, ep), k.takeBack(ep), k.cfg.Later.Delete(ep.PeerLink))
}

// takeBack deletes the endpoint's device if it is in a sandbox: no Leave was said, or the
// engine could not use the Join. Then it says Leave and leaves the device where it is, up and
// with an address that is free by now.
func (k *Kind) takeBack(ep driver.Endpoint) error {
	if ep.Joined {
		return k.cfg.Kernel.DetachChild(ep.Sandbox, alias(ep))
	}
	if ep.Left == "" {
		return nil
	}
	if _, err := k.cfg.Kernel.LinkByName(ep.PeerLink); errors.Is(err, kernel.ErrNotFound) {
		return k.cfg.Kernel.DetachChild(ep.Left, alias(ep))
	}
	return nil // it is back, as always but then
}

// Restore takes up an endpoint of an earlier process.
func (k *Kind) Restore(_ context.Context, n driver.Network, ep driver.Endpoint) error {
	k.attend(n)
	if ep.Joined {
		k.sit(ep, "")
		k.publish(n, ep)
	}
	if ep.Joined && n.Access != nil {
		k.access.mu.Lock()
		k.access.add(ep)
		k.access.mu.Unlock()
	}
	return nil
}

// EnsureEndpoint takes the endpoint off the network while it is Off, and puts it back, and
// lets host and container know each other. It cannot bring back a device that went with
// its parent, nor one that stayed with a parent that is called otherwise, but notices that.
func (k *Kind) EnsureEndpoint(ctx context.Context, n driver.Network, ep driver.Endpoint) error {
	if !ep.Joined {
		return nil
	}
	k.publish(n, ep)
	known := k.ensureAccessOf(ctx, n, ep)
	state := kernel.ChildState{Sandbox: ep.Sandbox, Alias: alias(ep), Down: ep.Off, Addrs: ep.Addrs(),
		Gateways: k.gateways(n, ep), Routes: k.routes(n, ep), Silent: k.sort.Routed(n), Hosts: k.hosts(n, ep)}
	k.mu.Lock()
	was, looked := k.off[ep.ID]
	k.mu.Unlock()
	var err error
	if ep.Off || was || !looked { // an earlier process may have taken it off
		err = k.cfg.Kernel.EnsureChild(state)
	}
	on := 0
	if err == nil {
		on, err = k.cfg.Kernel.ParentOf(ep.Sandbox, alias(ep))
	}
	missing := errors.Is(err, kernel.ErrNotFound)
	if missing {
		err = nil
	}
	if _, waits := k.cfg.Kernel.LinkByName(ep.PeerLink); waits == nil {
		return errors.Join(known, err) // the engine has not moved it yet
	}
	lost, apart := missing && k.cfg.Kernel.SandboxExists(ep.Sandbox), 0
	if l, below := k.cfg.Kernel.LinkByName(n.Device); below == nil && err == nil && !missing && on != l.Index {
		apart = on
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lost[ep.ID] = lost
	k.apart[ep.ID] = apart
	if err == nil {
		k.off[ep.ID] = ep.Off
	}
	return errors.Join(known, err)
}

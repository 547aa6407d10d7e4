package overlay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/driver/accord"
	"github.com/weft-net/weft/driver/bridged"
	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/kernel"
)

// prefixVXLAN begins the names of VXLAN devices; the network's id follows.
const prefixVXLAN = "wx-"

func device(prefix string, n driver.Network) string { return prefix + n.ID[:min(12, len(n.ID))] }

// PlanNetwork checks a network and agrees with the cluster on what it is. That is the
// one place where an overlay waits for the store.
func (k *Kind) PlanNetwork(ctx context.Context, n driver.Network, others []driver.Network) (driver.Network, error) {
	if k.alone {
		return n, errAlone()
	}
	if len(n.Subnets()) == 0 {
		return n, fmt.Errorf("%w: an overlay network needs a subnet", driver.ErrOption)
	}
	if len(n.IPv4) > 1 || len(n.IPv6) > 1 {
		return n, fmt.Errorf("%w: overlay networks don't support multiple subnets: give one --subnet for each family", driver.ErrOption)
	}
	var domain string // of both families: the engine gives both requests the same options
	for _, s := range n.Subnets() {
		var err error
		if domain, err = k.cfg.Addresses.Shared(n.ID, s.Pool); err != nil {
			return n, fmt.Errorf("%w: %w", driver.ErrOption, err)
		}
	}
	if err := bridged.OverlapNetworks(n, others); err != nil {
		return n, err
	}
	if err := k.OverlapRoutes(n); err != nil {
		return n, err
	}
	n.Device, n.Tunnel = device(driver.PrefixBridge, n), device(prefixVXLAN, n)
	most, err := k.mtu(n)
	if err != nil {
		return n, err
	}
	record, err := k.agree(ctx, n, common(n, most, domain))
	if err != nil {
		return n, err
	}
	n.Shared = shared(record)
	return n, nil
}

// mtu is what the underlay leaves for the network, or less if that is wanted.
func (k *Kind) mtu(n driver.Network) (int, error) {
	most := 0
	at := k.cfg.Underlay()
	if at.IsValid() {
		mtu, err := k.underlayMTU(at)
		if err != nil {
			return 0, err
		}
		most = mtu - kernel.VXLANOverhead(at)
	}
	const ethernet = 1500
	if most <= 0 {
		most = ethernet - kernel.VXLANOverhead(netip.IPv6Unspecified())
	}
	wanted := bridged.Parse(n.Options).MTU
	if wanted > most {
		return 0, driver.WithHint(fmt.Errorf("%w: %s=%d: the hosts' network at %s leaves %d bytes", driver.ErrOption, bridged.OptMTU, wanted, at, most),
			"use at most %d, or leave it out", most)
	}
	if wanted == 0 {
		wanted = most
	}
	return wanted, driver.CheckMTU(n, wanted)
}

// underlayMTU is what the device with the underlay address takes, or less, if a route to
// another host does.
func (k *Kind) underlayMTU(at netip.Addr) (int, error) {
	most, err := k.deviceMTU(at)
	if err != nil || k.cfg.Peers == nil {
		return most, err
	}
	for _, peer := range k.cfg.Peers() {
		path, err := k.cfg.Kernel.RouteTo(peer)
		if err == nil && path.MTU > 0 && peer.Is4() == at.Is4() {
			most = min(most, path.MTU)
		}
	}
	return most, nil
}

// deviceMTU is the MTU of the device that has the underlay address.
func (k *Kind) deviceMTU(at netip.Addr) (int, error) {
	addrs, err := k.cfg.Kernel.Addresses()
	if err != nil {
		return 0, err
	}
	links, err := k.cfg.Kernel.Links()
	if err != nil {
		return 0, err
	}
	for _, a := range addrs {
		if a.Prefix.Addr() != at {
			continue
		}
		for _, l := range links {
			if l.Index == a.Link {
				return l.MTU, nil
			}
		}
	}
	return 0, fmt.Errorf("no device has the address %s by which other hosts reach this one: see WEFT_ADVERTISE", at)
}

// agree returns the cluster's record of the network: a new one, or with -o net=NAME the
// one of that name.
func (k *Kind) agree(ctx context.Context, n driver.Network, options map[string]string) (directory.Network, error) {
	want := directory.Network{UUID: cluster.NewID(), Name: n.Options[accord.OptName], Mode: n.Mode, Subnets: accord.Pools(n), Options: options}
	wanted, err := parseVNIs(n.Options[optVNI])
	if err != nil {
		return want, err
	}
	return accord.Reach(ctx, k.cfg.Directory, accord.Terms{Network: want, VNI: true, VNIs: wanted, Fit: func(have directory.Network) (directory.Network, error) {
		return fit(want, have, n)
	}})
}

// fit takes the MTU that the others chose; this host's underlay must bear it.
func fit(want, have directory.Network, n driver.Network) (directory.Network, error) {
	if n.Options[bridged.OptMTU] != "" {
		return want, nil
	}
	theirs, _ := strconv.Atoi(have.Options[bridged.OptMTU])
	mine, _ := strconv.Atoi(want.Options[bridged.OptMTU])
	if theirs > mine {
		return want, driver.WithHint(fmt.Errorf("%w: network %s has an MTU of %d in the cluster, and this host's network leaves %d", driver.ErrConflict, have.Name, theirs, mine),
			"create it anew with -o %s=%d", bridged.OptMTU, mine)
	}
	want.Options[bridged.OptMTU] = have.Options[bridged.OptMTU]
	return want, nil
}

// shared is what a host keeps of the cluster's record.
func shared(r directory.Network) *driver.Shared {
	mtu, _ := strconv.Atoi(r.Options[bridged.OptMTU]) // 0 leaves the kernel's
	return &driver.Shared{UUID: r.UUID, VNI: r.VNI, MTU: mtu, Domain: accord.Domain(r)}
}

// record is what the cluster should know of a network, as this host keeps it.
func record(n driver.Network) directory.Network {
	return directory.Network{UUID: n.Shared.UUID, Name: n.Options[accord.OptName], Mode: n.Mode, VNI: n.Shared.VNI,
		Subnets: accord.Pools(n), Options: common(n, n.Shared.MTU, n.Shared.Domain)}
}

// EnsureNetwork makes the firewall know the network, and bridge and tunnel if this host
// takes part in it already.
func (k *Kind) EnsureNetwork(ctx context.Context, n driver.Network) error {
	t := k.attend(n)
	defer t.lock()()
	if err := k.cfg.Firewall.AddNetwork(ctx, bridged.FirewallNetwork(n, settings(n))); err != nil {
		return err
	}
	if k.alone {
		return nil
	}
	t.programmed, t.moved = nil, nil // whatever was done, the kernel is asked
	own, lost := k.cfg.Addresses.HostAddresses(n.ID)
	if len(lost) > 0 {
		return k.replaceOwn(ctx, n, t)
	}
	if len(own) > 0 {
		return k.ensureTunnel(n, t, own)
	}
	return nil
}

// replaceOwn takes other addresses for this host than those that belong to another one by
// now: it was removed while it ran. Nobody must send it their frames meanwhile. The bridge's
// MAC address comes from them and cannot change, so bridge and tunnel are made anew; ports
// come back when the endpoints are ensured, and then the containers hear of the gateway.
func (k *Kind) replaceOwn(ctx context.Context, n driver.Network, t *tunnel) error {
	k.cfg.Directory.Withdraw(n.Shared.UUID, ownEndpoint)
	own, err := k.cfg.Addresses.TakeHostAddresses(ctx, n.ID)
	if err != nil {
		return fmt.Errorf("network %.12s: addresses of this host in place of those that others have: %w", n.ID, err)
	}
	t.up.Store(false)
	if err := errors.Join(k.cfg.Kernel.DeleteLink(n.Tunnel), k.cfg.Kernel.DeleteLink(n.Device)); err != nil {
		return err
	}
	if err := k.ensureTunnel(n, t, own); err != nil {
		return err
	}
	mac, err := kernel.ToMAC(bridgeMAC(n, own))
	if err != nil {
		return err
	}
	for _, g := range bridged.Gateways(n) {
		t.moved = append(t.moved, kernel.Neighbor{Link: n.Device, IP: g, MAC: mac})
	}
	return nil
}

// bridgeMAC is the MAC address of the bridge of a host with these addresses.
func bridgeMAC(n driver.Network, own []netip.Prefix) net.HardwareAddr {
	return driver.MAC(n.Shared.MACSeed(), own[0].Addr())
}

// ensureTunnel makes bridge and VXLAN device and lets them be programmed.
func (k *Kind) ensureTunnel(n driver.Network, t *tunnel, own []netip.Prefix) (retErr error) {
	b := kernel.Bridge{
		Name: n.Device, Alias: "weft network " + n.ID, MTU: n.Shared.MTU, Addrs: own, IPv6: len(n.IPv6) > 0,
		MAC: bridgeMAC(n, own), NoSnooping: true,
		RouteLocalnet: settings(n).Publish == bridged.PublishNative && len(n.IPv4) > 0, Gateways: bridged.Gateways(n),
	}
	made, err := k.cfg.Kernel.EnsureBridge(b)
	if err != nil {
		return err
	}
	defer func() {
		if retErr != nil && made { // nothing half made: the host would answer for the gateway
			retErr = errors.Join(retErr, k.cfg.Kernel.DeleteLink(n.Device))
		}
	}()
	at := k.cfg.Underlay()
	if !at.IsValid() {
		return fmt.Errorf("network %.12s: no address is known by which other hosts reach this one: set WEFT_ADVERTISE", n.ID)
	}
	v := kernel.VXLAN{
		Name: n.Tunnel, Alias: "weft network " + n.ID, VNI: n.Shared.VNI, Port: k.cfg.Port, Local: at, MTU: n.Shared.MTU, Bridge: n.Device,
		MAC: driver.MAC(n.Shared.MACSeed()+"/tunnel", own[0].Addr()),
	}
	change, err := k.cfg.Kernel.EnsureVXLAN(v)
	if err != nil {
		return err
	}
	if change == kernel.Made {
		t.stale.Store(true)
	}
	k.publishOwn(n, own, b)
	t.up.Store(true)
	k.Changed(n.Shared.UUID)
	return nil
}

// ownEndpoint is the name of this host's own endpoint in the directory.
const ownEndpoint = "host"

// publishOwn makes this host's own addresses known: others reach it by them.
func (k *Kind) publishOwn(n driver.Network, own []netip.Prefix, b kernel.Bridge) {
	e := directory.Endpoint{ID: ownEndpoint, MAC: b.MAC.String(), Own: true}
	for _, p := range own {
		e.Addrs = append(e.Addrs, p.Addr())
	}
	k.cfg.Directory.Publish(n.Shared.UUID, e)
}

// Rebind makes this host take part in another network of the cluster with bridge, links
// and addresses as they are: the tunnel is made anew with that one's VNI.
func (k *Kind) Rebind(ctx context.Context, old, n driver.Network, eps []driver.Endpoint) error {
	if k.alone {
		return errAlone()
	}
	k.attend(n)
	for _, ep := range eps {
		k.publish(n, ep)
	}
	k.forsake(old.Shared.UUID)
	return k.EnsureNetwork(ctx, n)
}

// RemoveNetwork takes tunnel, bridge and rules away, and tells the cluster.
func (k *Kind) RemoveNetwork(ctx context.Context, n driver.Network) error {
	if n.Shared != nil {
		k.forsake(n.Shared.UUID)
	}
	return errors.Join(
		k.cfg.Kernel.DeleteLink(n.Tunnel),
		k.cfg.Kernel.DeleteLink(n.Device),
		k.cfg.Firewall.RemoveNetwork(ctx, n.ID),
	)
}

// isUp reports whether this process made or found the network's devices.
func (k *Kind) isUp(n driver.Network) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	t := k.tunnels[n.Shared.UUID]
	return t != nil && t.up.Load()
}

// Check compares bridge, tunnel and ports with the kernel. Entries are compared when
// the network is ensured.
func (k *Kind) Check(a driver.Actual, n driver.Network, eps []driver.Endpoint) []string {
	own, lost := k.cfg.Addresses.HostAddresses(n.ID)
	if len(lost) > 0 {
		return []string{fmt.Sprintf("this host's own addresses %v on network %.12s belong to another host", lost, n.ID)}
	}
	if len(own) == 0 || !k.isUp(n) {
		return nil // this host does not take part yet, or begins to
	}
	br, ok := a.Links[n.Device]
	if !ok {
		return []string{fmt.Sprintf("bridge %s of network %.12s was missing", n.Device, n.ID)}
	}
	var out []string
	if !br.Up {
		out = append(out, fmt.Sprintf("bridge %s was down", n.Device))
	}
	for _, want := range own {
		if !slices.ContainsFunc(a.Addresses[n.Device], func(x kernel.Address) bool { return x.Prefix == want }) {
			out = append(out, fmt.Sprintf("bridge %s had lost its address %s", n.Device, want))
		}
	}
	vx := n.Tunnel
	switch l, ok := a.Links[vx]; {
	case !ok:
		out = append(out, fmt.Sprintf("tunnel %s of network %.12s was missing", vx, n.ID))
	case l.Master != br.Index:
		out = append(out, fmt.Sprintf("tunnel %s was not in bridge %s", vx, n.Device))
	case !l.Up:
		out = append(out, fmt.Sprintf("tunnel %s was down", vx))
	}
	return append(out, bridged.CheckPorts(a, br, eps)...)
}

package parented

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/kernel"
)

// accesses is what this process knows of the networks on whose line the host itself is.
type accesses struct {
	mu sync.Mutex // held while a shim is looked at or changed
	// members are the joined endpoints, by network and id.
	members map[string]map[string]driver.Endpoint
	// seen is the host as all members of a network are told of it.
	seen map[string]host
	// taking is held while addresses of a network are taken for the host; untaken is why it
	// got none.
	taking  map[string]*sync.Mutex
	untaken map[string]error
}

func newAccesses() *accesses {
	return &accesses{members: map[string]map[string]driver.Endpoint{}, seen: map[string]host{}, taking: map[string]*sync.Mutex{}, untaken: map[string]error{}}
}

// lockTaking waits until nobody else takes addresses of a network. It must be called
// without mu.
func (a *accesses) lockTaking(network string) (unlock func()) {
	a.mu.Lock()
	m := a.taking[network]
	if m == nil {
		m = &sync.Mutex{}
		a.taking[network] = m
	}
	a.mu.Unlock()
	m.Lock()
	return m.Unlock
}

// add needs mu.
func (a *accesses) add(ep driver.Endpoint) {
	if a.members[ep.Network] == nil {
		a.members[ep.Network] = map[string]driver.Endpoint{}
	}
	a.members[ep.Network][ep.ID] = ep
}

// host is this host on the line of a network.
type host struct {
	// mac is the parent's MAC address.
	mac kernel.MAC
	// lan are addresses that it has on the parent, the lowest first, and temporary ones
	// last; own are those that it has from the network's pools. Old are deprecated ones: it
	// still has them, and nothing new comes from them.
	lan, own, old []netip.Addr
}

// addrs are those from which it comes, all those at which it is.
func (h host) addrs() []netip.Addr { return slices.Concat(h.lan, h.own) }
func (h host) all() []netip.Addr   { return slices.Concat(h.lan, h.own, h.old) }

func (h host) equal(o host) bool {
	return h.mac == o.mac && slices.Equal(h.addrs(), o.addrs()) && slices.Equal(h.old, o.old)
}

// source is the address from which the host reaches a container's. A container answers
// on the line only within its subnet; one whose host routes answers everywhere.
func (h host) source(n driver.Network, routed bool, to netip.Addr) netip.Addr {
	for _, a := range h.addrs() {
		if together(n, a, to) {
			return a
		}
	}
	if routed && !n.Internal {
		for _, a := range h.addrs() {
			if a.Is4() == to.Is4() {
				return a
			}
		}
	}
	return netip.Addr{}
}

// together says whether two addresses are in one subnet of a network.
func together(n driver.Network, a, b netip.Addr) bool {
	return slices.ContainsFunc(n.Subnets(), func(s driver.Subnet) bool { return s.Pool.Contains(a) && s.Pool.Contains(b) })
}

// look is what the host is on a network's line now, or soon. [kernel.ErrNotFound] says
// that its device is gone.
func (k *Kind) look(n driver.Network, soon bool) (host, error) {
	l, err := k.cfg.Kernel.LinkByName(n.Device)
	if err != nil {
		return host{}, err
	}
	addrs, err := k.cfg.Kernel.Addresses()
	if err != nil {
		return host{}, err
	}
	slices.SortFunc(addrs, func(a, b kernel.Address) int {
		if a.Temporary != b.Temporary {
			return map[bool]int{true: 1, false: -1}[a.Temporary]
		}
		return a.Prefix.Addr().Compare(b.Prefix.Addr())
	})
	h := host{mac: l.MAC}
	strict := k.strict(n)
	for _, a := range addrs {
		ip := a.Prefix.Addr()
		inside := k.sort.Routed(n) && !n.Internal || together(n, ip, ip)
		switch {
		case a.Link != l.Index || !inside || !ip.IsGlobalUnicast() || ip.Is4() && strict:
		case a.Refused || a.Tentative && !soon:
		case a.Deprecated:
			h.old = append(h.old, ip)
		default:
			h.lan = append(h.lan, ip)
		}
	}
	if n.Access != nil && n.Access.Pooled {
		own, _ := k.cfg.Addresses.HostAddresses(n.ID)
		for _, p := range own {
			h.own = append(h.own, p.Addr())
		}
	}
	return h, nil
}

// shimMAC is the host's MAC address beside those of its containers.
func (k *Kind) shimMAC(n driver.Network) net.HardwareAddr {
	return driver.MAC(k.cfg.Seed+"/"+n.Access.Link, netip.Addr{})
}

// shim is the host's device on the line, as it should be, with these peers.
func (k *Kind) shim(n driver.Network, h host, peers []kernel.Peer) kernel.Shim {
	s := kernel.Shim{
		Child: kernel.Child{Kind: k.sort.Kind, Name: n.Access.Link, Alias: "weft host access of network " + n.ID, Parent: n.Device, MTU: parse(n.Options).mtu},
		Addrs: h.own, IPv6: len(n.IPv6) > 0, Peers: peers,
		Forwards: k.sort.Routed(n) || slices.ContainsFunc(n.IPv4, func(s driver.Subnet) bool { return slices.Contains(h.all(), s.Router()) }),
	}
	s.Mode, s.Flag = k.sort.Style(n.Options)
	if k.sort.OwnMAC {
		s.MAC = k.shimMAC(n)
	}
	return s
}

// peers are an endpoint's addresses, as far as the host can reach them.
func (k *Kind) peers(n driver.Network, h host, ep driver.Endpoint) []kernel.Peer {
	var out []kernel.Peer
	for _, p := range ep.Addrs() {
		peer := kernel.Peer{Addr: p.Addr(), Source: h.source(n, k.sort.Routed(n), p.Addr())}
		if ep.Off || !peer.Source.IsValid() { // without one, see Troubles
			continue
		}
		if mac, err := net.ParseMAC(ep.MAC); err == nil && k.sort.OwnMAC {
			copy(peer.MAC[:], mac)
		}
		out = append(out, peer)
	}
	return out
}

// allPeers are those of all members. It needs access.mu.
func (k *Kind) allPeers(n driver.Network, h host) []kernel.Peer {
	members := k.access.members[n.ID]
	var out []kernel.Peer
	for _, id := range slices.Sorted(maps.Keys(members)) {
		out = append(out, k.peers(n, h, members[id])...)
	}
	return out
}

// arrive is look of a host that is about to be on the line. On a device of weft's own,
// the kernel would answer the line for the addresses that the host has by the shim.
func (k *Kind) arrive(n driver.Network) (host, error) {
	h, err := k.look(n, false)
	if err == nil && n.Access.Pooled && !n.Adopted {
		_, err = k.cfg.Kernel.EnsureSysctl(kernel.Sysctl{Key: "net/ipv4/conf/" + n.Device + "/arp_ignore", Value: "1"})
	}
	return h, err
}

// ensureShim makes the host's device be as it should, for all that is to be told to all
// members. It needs access.mu.
func (k *Kind) ensureShim(n driver.Network) error {
	h, err := k.arrive(n)
	if err != nil {
		return err
	}
	k.access.seen[n.ID] = h
	return inNetwork(n, k.cfg.Kernel.EnsureShim(k.shim(n, h, k.allPeers(n, h))))
}

// inNetwork says of which network's host_access an error is.
func inNetwork(n driver.Network, err error) error {
	if err != nil {
		return fmt.Errorf("%s of network %.12s: %w", OptAccess, n.ID, err)
	}
	return nil
}

// ensureAccess makes the host be on the network's line, as far as the line is there. All
// endpoints have to be ensured after it, which tells them of the host.
func (k *Kind) ensureAccess(ctx context.Context, n driver.Network) error {
	if n.Access == nil {
		return nil
	}
	k.access.mu.Lock()
	used := len(k.access.members[n.ID]) > 0
	k.access.mu.Unlock()
	var taken error
	if used {
		taken = k.takeOwn(ctx, n, true)
	}
	k.access.mu.Lock()
	defer k.access.mu.Unlock()
	err := k.ensureShim(n)
	if errors.Is(err, kernel.ErrNotFound) {
		err = nil // see Troubles
	}
	return errors.Join(taken, err)
}

// takeOwn takes addresses of the network for the host itself, if it needs them. After a
// failure, which Troubles tells, it does nothing unless it is to try again.
func (k *Kind) takeOwn(ctx context.Context, n driver.Network, again bool) error {
	if !n.Access.Pooled {
		return nil
	}
	defer k.access.lockTaking(n.ID)()
	k.access.mu.Lock()
	failed := k.access.untaken[n.ID] != nil
	k.access.mu.Unlock()
	if failed && !again {
		return nil
	}
	err := k.completeOwn(ctx, n)
	k.access.mu.Lock()
	defer k.access.mu.Unlock()
	delete(k.access.untaken, n.ID)
	if err != nil {
		k.access.untaken[n.ID] = err
	}
	return inNetwork(n, err)
}

// giveOwn gives back what the host has of the network for itself, to be taken anew.
func (k *Kind) giveOwn(ctx context.Context, n driver.Network) error {
	if n.Access == nil || !n.Access.Pooled {
		return nil
	}
	defer k.access.lockTaking(n.ID)()
	k.access.mu.Lock()
	delete(k.access.untaken, n.ID)
	k.access.mu.Unlock()
	return inNetwork(n, k.cfg.Addresses.ReleaseHostAddresses(ctx, n.ID))
}

// completeOwn makes the host have an address of each family of the network's.
func (k *Kind) completeOwn(ctx context.Context, n driver.Network) error {
	families := 0
	for _, list := range [][]driver.Subnet{n.IPv4, n.IPv6} {
		families += min(1, len(list))
	}
	own, lost := k.cfg.Addresses.HostAddresses(n.ID)
	if len(own) == families && len(lost) == 0 {
		return nil
	}
	_, err := k.cfg.Addresses.TakeHostAddresses(ctx, n.ID)
	return err
}

// admit lets the host reach an endpoint, or reach it no more while that is Off. It does
// nothing for other endpoints, whose state is no reason to fail: that is reconcile's affair.
func (k *Kind) admit(ctx context.Context, n driver.Network, ep driver.Endpoint) error {
	if n.Access == nil {
		return nil
	}
	if err := k.takeOwn(ctx, n, false); err != nil {
		k.log.Warn("the host does not reach containers yet", "err", err)
	}
	k.access.mu.Lock()
	defer k.access.mu.Unlock()
	k.access.add(ep)
	h, err := k.arrive(n)
	if err != nil {
		return err
	}
	// Others would not be told, and Check not see that they have to be.
	if _, ok := k.access.seen[n.ID]; !ok || len(k.access.members[n.ID]) == 1 {
		k.access.seen[n.ID] = h
	}
	err = k.cfg.Kernel.AddPeers(k.shim(n, h, k.peers(n, h, ep)))
	if err == nil && ep.Off {
		err = k.cfg.Kernel.RemovePeers(n.Access.Link, hostsOf(ep))
	}
	return inNetwork(n, err)
}

// hostsOf are an endpoint's addresses without their subnets.
func hostsOf(ep driver.Endpoint) []netip.Addr {
	var out []netip.Addr
	for _, p := range ep.Addrs() {
		out = append(out, p.Addr())
	}
	return out
}

// expel ends that.
func (k *Kind) expel(n driver.Network, ep driver.Endpoint) error {
	if n.Access == nil {
		return nil
	}
	k.access.mu.Lock()
	defer k.access.mu.Unlock()
	delete(k.access.members[n.ID], ep.ID)
	if len(k.access.members[n.ID]) == 0 {
		delete(k.access.untaken, n.ID) // the next one is worth a try
	}
	return k.cfg.Kernel.RemovePeers(n.Access.Link, hostsOf(ep))
}

// leaveAccess takes the host off a network's line.
func (k *Kind) leaveAccess(n driver.Network) error {
	if n.Access == nil {
		return nil
	}
	k.access.mu.Lock()
	defer k.access.mu.Unlock()
	delete(k.access.members, n.ID)
	delete(k.access.seen, n.ID)
	delete(k.access.taking, n.ID)
	delete(k.access.untaken, n.ID)
	return k.deleteShim(n.Access.Link, 0)
}

// deleteShim deletes the host's own device, unless it is gone, or somebody put another one in
// its place, or it is on another device than the one with this index; 0 is any. It needs
// access.mu.
func (k *Kind) deleteShim(name string, on int) error {
	l, err := k.cfg.Kernel.LinkByName(name)
	if errors.Is(err, kernel.ErrNotFound) || err == nil && (!driver.Ours(l) || on != 0 && l.Parent != on) {
		return nil
	}
	if err != nil {
		return err
	}
	return k.cfg.Kernel.DeleteLink(name)
}

// stepOff deletes the host's own device if it is on the device that a network leaves; it is
// made anew on the next one.
func (k *Kind) stepOff(old driver.Network) error {
	if old.Access == nil {
		return nil
	}
	k.access.mu.Lock()
	defer k.access.mu.Unlock()
	below, err := k.cfg.Kernel.LinkByName(old.Device)
	if errors.Is(err, kernel.ErrNotFound) {
		return nil // and so is what was on it
	}
	if err != nil {
		return err
	}
	return k.deleteShim(old.Access.Link, below.Index)
}

// hosts are the host's addresses for a container, which nobody on the line is to ask for.
func (k *Kind) hosts(n driver.Network, ep driver.Endpoint) kernel.Hosts {
	k.access.mu.Lock()
	defer k.access.mu.Unlock()
	return k.hostsNow(n, ep)
}

// hostsNow is hosts; it needs access.mu.
func (k *Kind) hostsNow(n driver.Network, ep driver.Endpoint) kernel.Hosts {
	if n.Access == nil || k.sort.Routed(n) {
		return kernel.Hosts{}
	}
	h := k.access.seen[n.ID]
	out := kernel.Hosts{MAC: h.mac}
	if k.sort.OwnMAC {
		copy(out.MAC[:], k.shimMAC(n))
	}
	for _, a := range h.all() {
		if slices.ContainsFunc(ep.Addrs(), func(p netip.Prefix) bool { return together(n, a, p.Addr()) }) {
			out.Addrs = append(out.Addrs, a)
		}
	}
	return out
}

// tellHosts tells a container the host's addresses, as far as it is there. Nobody changes
// them meanwhile: who is slow would tell those of before last.
func (k *Kind) tellHosts(n driver.Network, ep driver.Endpoint) error {
	k.access.mu.Lock()
	defer k.access.mu.Unlock()
	hosts := k.hostsNow(n, ep)
	if hosts.MAC == (kernel.MAC{}) || ep.Off {
		return nil
	}
	return k.cfg.Kernel.EnsureHosts(ep.Sandbox, alias(ep), hosts)
}

// ensureAccessOf makes host and container know each other as they are now.
func (k *Kind) ensureAccessOf(ctx context.Context, n driver.Network, ep driver.Endpoint) error {
	if n.Access == nil {
		return nil
	}
	k.access.mu.Lock()
	known, ok := k.access.members[n.ID][ep.ID]
	k.access.mu.Unlock()
	var admitted error
	if !ok || known.Off != ep.Off {
		admitted = k.admit(ctx, n, ep)
	}
	told := k.tellHosts(n, ep)
	for _, err := range []*error{&admitted, &told} {
		if errors.Is(*err, kernel.ErrNotFound) { // the engine has not moved the device yet, or it is lost: see Troubles
			*err = nil
		}
	}
	return errors.Join(admitted, told)
}

// checkAccess compares the host's device on the line with what it should be.
func (k *Kind) checkAccess(n driver.Network) []string {
	if n.Access == nil {
		return nil
	}
	k.access.mu.Lock()
	defer k.access.mu.Unlock()
	h, err := k.look(n, false)
	if errors.Is(err, kernel.ErrNotFound) {
		return nil // see Troubles
	}
	var difference string
	if err == nil {
		difference, err = k.cfg.Kernel.CheckShim(k.shim(n, h, k.allPeers(n, h)))
	}
	seen, ok := k.access.seen[n.ID]
	used := len(k.access.members[n.ID]) > 0 // else nobody takes others for the lost
	lost := k.lostOwn(n)
	switch {
	case err != nil:
		difference = err.Error()
	case difference == "" && ok && !seen.equal(h):
		difference = "the host has other addresses there"
	case len(lost) > 0 && used:
		difference = fmt.Sprintf("its addresses %v belong to another host", lost)
	}
	if difference == "" {
		return nil
	}
	return []string{fmt.Sprintf("device %s by which the host reaches the containers of network %.12s: %s", n.Access.Link, n.ID, difference)}
}

func (k *Kind) lostOwn(n driver.Network) []netip.Prefix {
	if !n.Access.Pooled {
		return nil
	}
	_, lost := k.cfg.Addresses.HostAddresses(n.ID)
	return lost
}

// accessTroubles says which containers the host cannot reach for want of an address.
func (k *Kind) accessTroubles(n driver.Network, eps []driver.Endpoint) []string {
	if n.Access == nil {
		return nil
	}
	k.access.mu.Lock()
	h, ok := k.access.seen[n.ID]
	untaken := k.access.untaken[n.ID]
	k.access.mu.Unlock()
	if !ok {
		return nil // its device is gone, which is told
	}
	if untaken != nil && len(eps) > 0 {
		return []string{fmt.Sprintf("the host does not reach its containers (%s=true): it needs an address of the network's, and is trying again: %v", OptAccess, untaken)}
	}
	for _, ep := range eps {
		for _, p := range ep.Addrs() {
			if h.source(n, k.sort.Routed(n), p.Addr()).IsValid() {
				continue
			}
			why := ""
			if p.Addr().Is4() && k.strict(n) {
				why = ", or set " + rpFilter(n.Device) + "=2, which is strict"
			}
			return []string{fmt.Sprintf("the host does not reach its containers (%s=true): it has no address in %s on %s: give it one%s", OptAccess, p.Masked(), n.Device, why)}
		}
	}
	return nil
}

// HostAt returns the addresses by which the host and a network's containers reach each
// other, the best first; none without host_access.
func (k *Kind) HostAt(network string) []netip.Addr {
	k.access.mu.Lock()
	defer k.access.mu.Unlock()
	return k.access.seen[network].addrs()
}

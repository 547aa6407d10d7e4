package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// EnsureShim is as [Host.EnsureShim].
func (f *Fake) EnsureShim(s Shim) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, err := f.readyShim(s)
	if err != nil {
		return err
	}
	l.peers = slices.DeleteFunc(l.peers, func(p Peer) bool { return !slices.Contains(s.Peers, p) })
	return f.addPeers(l, s)
}

// AddPeers is as [Host.AddPeers].
func (f *Fake) AddPeers(s Shim) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, err := f.readyShim(s)
	if err != nil {
		return err
	}
	l.peers = slices.DeleteFunc(l.peers, func(p Peer) bool {
		return slices.ContainsFunc(s.Peers, func(w Peer) bool { return w.Addr == p.Addr && w != p })
	})
	return f.addPeers(l, s)
}

func (f *Fake) readyShim(s Shim) (*fakeLink, error) {
	if f.failure != nil {
		return nil, f.failure
	}
	parent := f.links[s.Parent]
	if parent == nil {
		return nil, fmt.Errorf("%s %s: parent %s: %w", s.Kind, s.Name, s.Parent, ErrNotFound)
	}
	if l := f.links[s.Name]; l != nil && !l.isShim(s, parent.Index) {
		if l.Group != Group && l.Group != DoomedGroup {
			return nil, fmt.Errorf("%s %s: another device of that name %w", s.Kind, s.Name, ErrExists)
		}
		f.delete(s.Name)
	}
	if f.links[s.Name] == nil {
		if err := f.addChild(s.Child); err != nil {
			return nil, err
		}
	}
	l := f.links[s.Name]
	l.Up = true
	l.addrs = nil
	for _, a := range s.Addrs {
		l.addrs = append(l.addrs, netip.PrefixFrom(a, a.BitLen()))
	}
	forwarding := "0"
	if s.Forwards {
		forwarding = f.sysctls["net/ipv4/conf/all/forwarding"]
	}
	f.sysctls["net/ipv4/conf/"+s.Name+"/forwarding"] = forwarding
	return l, nil
}

func (f *Fake) addPeers(l *fakeLink, s Shim) error {
	var errs []error
	for _, p := range s.Peers {
		if err := f.addPeer(l, p); err != nil {
			errs = append(errs, err)
		}
	}
	slices.SortFunc(l.peers, func(a, b Peer) int { return a.Addr.Compare(b.Addr) })
	return errors.Join(errs...)
}

func (l *fakeLink) isShim(s Shim, parent int) bool {
	return l.Kind == string(s.Kind) && l.Parent == parent && l.Group == Group && l.child.Mode == s.Mode && (s.MAC == nil || l.MAC.String() == s.MAC.String())
}

// addPeer refuses a peer to which another device leads, and a source that the host lacks.
func (f *Fake) addPeer(l *fakeLink, p Peer) error {
	if slices.Contains(l.peers, p) {
		return nil
	}
	local := false
	for _, other := range f.links {
		local = local || slices.ContainsFunc(other.addrs, func(a netip.Prefix) bool { return a.Addr() == p.Source })
		if other != l && slices.ContainsFunc(other.peers, func(o Peer) bool { return o.Addr == p.Addr }) {
			return fmt.Errorf("a route to %s that is not weft's %w", p.Addr, ErrExists)
		}
	}
	if !local {
		return fmt.Errorf("%s: add route to %s from %s: the host has no such address", l.Name, p.Addr, p.Source)
	}
	for _, r := range f.routes {
		if r.Dst == netip.PrefixFrom(p.Addr, p.Addr.BitLen()) {
			return fmt.Errorf("a route to %s that is not weft's %w", p.Addr, ErrExists)
		}
	}
	l.peers = append(l.peers, p)
	return nil
}

// RemovePeers is as [Host.RemovePeers].
func (f *Fake) RemovePeers(shim string, addrs []netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.links[shim]; l != nil && f.failure == nil {
		l.peers = slices.DeleteFunc(l.peers, func(p Peer) bool { return slices.Contains(addrs, p.Addr) })
	}
	return f.failure
}

// CheckShim is as [Host.CheckShim].
func (f *Fake) CheckShim(s Shim) (difference string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, parent := f.links[s.Name], f.links[s.Parent]
	switch {
	case l == nil:
		return "it is missing", nil
	case parent == nil:
		return "", fmt.Errorf("%s: parent %s: %w", s.Name, s.Parent, ErrNotFound)
	case !l.isShim(s, parent.Index):
		return "it is another device", nil
	case !l.Up:
		return "it is down, or can be heard", nil
	}
	var addrs []netip.Addr
	for _, p := range l.addrs {
		addrs = append(addrs, p.Addr())
	}
	return differs(s, addrs, l.peers), nil
}

// EnsureHosts is as [Host.EnsureHosts].
func (f *Fake) EnsureHosts(sandbox, alias string, hosts Hosts) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil {
		return f.failure
	}
	for _, c := range f.children[sandbox] {
		if c.Alias == alias && c.up {
			c.hosts = hosts
			return nil
		}
	}
	return fmt.Errorf("sandbox %s: device %q: %w", sandbox, alias, ErrNotFound)
}

// SetFlags makes an address of the host's have those of flags.
func (f *Fake) SetFlags(addr netip.Addr, flags Address) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flags[addr] = flags
}

// SetAddrs makes a device of the host's have these addresses and no others.
func (f *Fake) SetAddrs(device string, addrs ...netip.Prefix) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.links[device]
	lost := slices.DeleteFunc(l.addrs, func(a netip.Prefix) bool { return slices.Contains(addrs, a) })
	l.addrs = addrs
	for _, other := range f.links { // routes from an address go with it
		other.peers = slices.DeleteFunc(other.peers, func(p Peer) bool {
			return slices.ContainsFunc(lost, func(a netip.Prefix) bool { return a.Addr() == p.Source })
		})
	}
}

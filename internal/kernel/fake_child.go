package kernel

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// fakeChild is a child device inside a sandbox.
type fakeChild struct {
	Child
	parent int // index of the device below
	up     bool
	addrs  []netip.Prefix
	ways   []string // its default routes
	hosts  Hosts    // whom it was told of
}

// Wireless is as [Host.Wireless]; see SetWireless.
func (f *Fake) Wireless(name string) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wireless[name], nil
}

// SetWireless makes a device a wireless one.
func (f *Fake) SetWireless(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wireless[name] = true
}

// EnsureVLAN is as [Host.EnsureVLAN].
func (f *Fake) EnsureVLAN(v VLAN) (made bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil {
		return false, f.failure
	}
	parent := f.links[v.Parent]
	if parent == nil {
		return false, fmt.Errorf("sub-interface %s: parent %s: %w", v.Name, v.Parent, ErrNotFound)
	}
	l := f.links[v.Name]
	if l == nil {
		for _, other := range f.links {
			if other.Parent == parent.Index && other.VLAN == v.ID && !other.Provider {
				return false, fmt.Errorf("sub-interface %s of %s: %w", v.Name, v.Parent, ErrExists)
			}
		}
		l = f.add(Link{Name: v.Name, Alias: v.Alias, Kind: "vlan", Group: Group, MTU: parent.MTU, Parent: parent.Index, VLAN: v.ID, MAC: parent.MAC, Carrier: parent.Carrier})
		made = true
	}
	if l.Kind != "vlan" || l.VLAN != v.ID || l.Provider || l.Parent != parent.Index {
		return made, fmt.Errorf("sub-interface %s of %s: another device of that name %w", v.Name, v.Parent, ErrExists)
	}
	l.Up = l.Up || parent.Up
	return made, nil
}

// EnsureDummy is as [Host.EnsureDummy].
func (f *Fake) EnsureDummy(name, alias string) (made bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil {
		return false, f.failure
	}
	l := f.links[name]
	if l == nil {
		l = f.add(Link{Name: name, Alias: alias, Kind: "dummy", Group: Group, Carrier: true})
		made = true
	}
	if l.Kind != "dummy" {
		return made, fmt.Errorf("dummy device %s: another device of that name %w", name, ErrExists)
	}
	l.Up = true
	return made, nil
}

// AddChild is as [Host.AddChild].
func (f *Fake) AddChild(c Child) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil {
		return f.failure
	}
	parent := f.links[c.Parent]
	if l := f.links[c.Name]; l != nil && parent != nil && l.Kind == string(c.Kind) && l.Parent == parent.Index {
		return nil
	}
	return f.addChild(c)
}

// TryChild is as [Host.TryChild].
func (f *Fake) TryChild(c Child) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil {
		return f.failure
	}
	err := f.addChild(c)
	if err == nil {
		f.delete(c.Name)
	}
	return err
}

func (f *Fake) addChild(c Child) error {
	parent, err := f.mayBear(c)
	if err != nil {
		return err
	}
	if f.links[c.Name] != nil {
		return fmt.Errorf("make %s %s on %s: %w", c.Kind, c.Name, c.Parent, ErrExists)
	}
	l := Link{Name: c.Name, Alias: c.Alias, Kind: string(c.Kind), Group: Group, MTU: c.MTU, Parent: parent.Index, MAC: parent.MAC}
	if l.MTU == 0 {
		l.MTU = parent.MTU
	}
	if c.MAC != nil && c.Mode != "passthru" {
		copy(l.MAC[:], c.MAC)
	}
	f.add(l).child = c
	return nil
}

// mayBear says whether the parent takes one more child.
func (f *Fake) mayBear(c Child) (*fakeLink, error) {
	parent := f.links[c.Parent]
	if parent == nil {
		return nil, fmt.Errorf("%s %s: parent %s: %w", c.Kind, c.Name, c.Parent, ErrNotFound)
	}
	busy := parent.Master != 0 && f.kindOf(parent.Master) != "vrf"
	for _, other := range f.childrenOf(parent.Index) {
		busy = busy || other.Kind != c.Kind || c.Mode == "passthru" || other.Mode == "passthru"
	}
	if busy {
		return nil, fmt.Errorf("make %s %s on %s: %w", c.Kind, c.Name, c.Parent, ErrBusy)
	}
	return parent, nil
}

// kindOf is the kind of the device with an index.
func (f *Fake) kindOf(index int) string {
	for _, l := range f.links {
		if l.Index == index {
			return l.Kind
		}
	}
	return ""
}

// childrenOf are the children of a device, wherever they are.
func (f *Fake) childrenOf(parent int) []Child {
	var out []Child
	for _, l := range f.links {
		if l.child.Kind != "" && l.Parent == parent {
			out = append(out, l.child)
		}
	}
	for _, ns := range f.children {
		for _, c := range ns {
			if c.parent == parent {
				out = append(out, c.Child)
			}
		}
	}
	return out
}

// AttachChild is as [Host.AttachChild].
func (f *Fake) AttachChild(a ChildAttachment) (ifname string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil {
		return "", f.failure
	}
	if f.sandboxes[a.Sandbox] == nil {
		return "", fmt.Errorf("sandbox %s: %w", a.Sandbox, ErrNotFound)
	}
	parent, err := f.mayBear(a.Child)
	if err != nil {
		return "", err
	}
	name := a.Name
	for i := 0; name == ""; i++ {
		if next := a.Prefix + strconv.Itoa(i); f.children[a.Sandbox][next] == nil {
			name = next
		}
	}
	if f.children[a.Sandbox][name] != nil {
		return "", fmt.Errorf("make %s %s on %s: %w", a.Kind, name, a.Parent, ErrExists)
	}
	c := &fakeChild{Child: a.Child, parent: parent.Index, up: !a.Down, addrs: slices.Clone(a.Addrs), hosts: a.Hosts}
	for _, p := range a.Routes {
		c.ways = append(c.ways, p.String())
	}
	f.putInside(a.Sandbox, name, c)
	return name, nil
}

func (f *Fake) putInside(sandbox, name string, c *fakeChild) {
	if f.children[sandbox] == nil {
		f.children[sandbox] = map[string]*fakeChild{}
	}
	f.children[sandbox][name] = c
}

// Move does what the engine does with a link of the host: it moves a child into a
// sandbox, names it, addresses it and sets it up.
func (f *Fake) Move(link, sandbox, ifname string, addrs ...netip.Prefix) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.links[link]
	if l == nil || l.child.Kind == "" || f.sandboxes[sandbox] == nil {
		return fmt.Errorf("move %s to %s: %w", link, sandbox, ErrNotFound)
	}
	delete(f.links, link)
	f.putInside(sandbox, ifname, &fakeChild{Child: l.child, parent: l.Parent, up: true, addrs: addrs})
	return nil
}

// DetachChild is as [Host.DetachChild].
func (f *Fake) DetachChild(sandbox, alias string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, c := range f.children[sandbox] {
		if c.Alias == alias && f.failure == nil {
			delete(f.children[sandbox], name)
		}
	}
	return f.failure
}

// RetireChild is as [Host.RetireChild]; the device is gone at once.
func (f *Fake) RetireChild(sandbox, alias string) (finish func() error, err error) {
	if err := f.DetachChild(sandbox, alias); err != nil {
		return nil, err
	}
	return func() error { return nil }, nil
}

// EnsureChild is as [Host.EnsureChild].
func (f *Fake) EnsureChild(s ChildState) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil {
		return f.failure
	}
	for _, c := range f.children[s.Sandbox] {
		if c.Alias != s.Alias {
			continue
		}
		if !s.Down && !c.up {
			c.ways, c.hosts = nil, s.Hosts
			for _, gw := range s.Gateways {
				c.ways = append(c.ways, gw.String())
			}
			for _, p := range s.Routes {
				c.ways = append(c.ways, p.String())
			}
		}
		c.up = !s.Down
		return nil
	}
	return fmt.Errorf("sandbox %s: device %q: %w", s.Sandbox, s.Alias, ErrNotFound)
}

// ParentOf is as [Host.ParentOf].
func (f *Fake) ParentOf(sandbox, alias string) (index int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.children[sandbox] {
		if c.Alias == alias {
			return c.parent, nil
		}
	}
	return 0, fmt.Errorf("sandbox %s: device %q: %w", sandbox, alias, ErrNotFound)
}

// Supports is as [Host.Supports]: a fake has everything but what SetMissing named.
func (f *Fake) Supports(kind string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.missing[kind] {
		return fmt.Errorf("try to make a device of kind %s: %w", kind, ErrNotSupported)
	}
	return nil
}

// SetMissing takes a kind of device away from the kernel.
func (f *Fake) SetMissing(kind string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.missing[kind] = true
}

// deleteChildren takes away what was on a device that goes.
func (f *Fake) deleteChildren(parent int) {
	for _, l := range f.sorted() {
		if l.Parent == parent && f.links[l.Name] == l && (l.child.Kind != "" || l.VLAN != 0) {
			f.delete(l.Name)
		}
	}
	for _, ns := range f.children {
		for name, c := range ns {
			if c.parent == parent {
				delete(ns, name)
			}
		}
	}
}

// dumpChildren prints the children inside sandboxes.
func (f *Fake) dumpChildren(b *strings.Builder, names map[int]string) {
	var lines []string
	for sandbox, ns := range f.children {
		for name, c := range ns {
			line := fmt.Sprintf("%s:%s kind=%s mode=%s%s on=%s up=%t %v %v", sandbox, name, c.Kind, c.Mode, c.Flag, names[c.parent], c.up, c.addrs, c.ways)
			if c.up && len(c.hosts.Addrs) > 0 {
				line += fmt.Sprintf(" hosts=%v at %s", c.hosts.Addrs, c.hosts.MAC)
			}
			lines = append(lines, line+"\n")
		}
	}
	slices.Sort(lines)
	for _, l := range lines {
		b.WriteString(l)
	}
}

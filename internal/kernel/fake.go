package kernel

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// A Fake is a kernel that is only a model: devices, addresses, sysctls and
// sandboxes, without packets. Make it with [NewFake]. Its methods behave as a
// [Host]'s do; a conformance test compares both. [Fake.Dump] prints it.
type Fake struct {
	mu        sync.Mutex
	next      int
	links     map[string]*fakeLink
	sandboxes map[string]map[string][]netip.Prefix // path → interface → addresses
	sysctls   map[string]string
	routes    []Route
	flags     map[netip.Addr]Address // those of addresses that have some
	flows     []Flow
	failure   error
	deletions int
	udp       map[uint16]bool // ports that a foreign process holds
	announced []Neighbor
	children  map[string]map[string]*fakeChild // path → interface → child
	wireless  map[string]bool
	missing   map[string]bool // kinds of devices that this kernel lacks
}

type fakeLink struct {
	Link
	addrs   []netip.Prefix
	peer    string // name of the other end in this namespace
	carrier bool   // the other end is up, wherever it is
	sandbox string // path of the namespace that has the other end
	inside  string // its name there

	child Child  // what a child was made as
	peers []Peer // whom a shim leads to

	vxlan     VXLAN
	fdb       map[place]FDBEntry
	neighbors map[place]Neighbor
}

// NewFake makes a machine that has only the loopback device.
func NewFake() *Fake {
	f := &Fake{links: map[string]*fakeLink{}, sandboxes: map[string]map[string][]netip.Prefix{}, sysctls: map[string]string{}, flags: map[netip.Addr]Address{},
		children: map[string]map[string]*fakeChild{}, wireless: map[string]bool{}, missing: map[string]bool{}}
	f.add(Link{Name: "lo", Loopback: true, Up: true, MTU: 65536})
	return f
}

// Fail makes every further change fail with err; nil ends that.
func (f *Fake) Fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failure = err
}

// AddDevice makes a device of the host's, for instance an uplink.
func (f *Fake) AddDevice(l Link, addrs ...netip.Prefix) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.add(l).addrs = addrs
}

// AddRoute makes a route of the host's by the device of that name.
func (f *Fake) AddRoute(dst netip.Prefix, gateway netip.Addr, device string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.routes = append(f.routes, Route{Dst: dst, Gateway: gateway, Link: f.links[device].Index})
}

// AddSandbox makes an empty network namespace.
func (f *Fake) AddSandbox(path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sandboxes[path] = map[string][]netip.Prefix{}
}

// Forgotten lists the flows that ForgetFlows was given.
func (f *Fake) Forgotten() []Flow {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.flows)
}

func (f *Fake) add(l Link) *fakeLink {
	f.next++
	l.Index = f.next
	if l.MTU == 0 {
		l.MTU = 1500
	}
	made := &fakeLink{Link: l}
	f.links[l.Name] = made
	return made
}

// EnsureBridge is as [Host.EnsureBridge].
func (f *Fake) EnsureBridge(b Bridge) (made bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil {
		return false, f.failure
	}
	l := f.links[b.Name]
	if l == nil {
		if b.Adopt {
			return false, fmt.Errorf("bridge %s: %w", b.Name, ErrNotFound)
		}
		l = f.add(Link{Name: b.Name, Kind: "bridge", Group: Group})
		made = true
	}
	if l.Kind != "bridge" {
		return made, fmt.Errorf("device %s %w but of kind %s", b.Name, ErrNotBridge, l.Kind)
	}
	if !b.Adopt {
		l.Alias = b.Alias
		if b.MTU > 0 {
			l.MTU = b.MTU
		}
	}
	addrs := slices.Clone(b.Addrs)
	for _, gw := range b.Gateways {
		addrs = append(addrs, netip.PrefixFrom(gw, gw.BitLen()))
	}
	for _, a := range addrs {
		if !slices.Contains(l.addrs, a) {
			l.addrs = append(l.addrs, a)
		}
	}
	if b.RouteLocalnet {
		f.sysctls["net/ipv4/conf/"+b.Name+"/route_localnet"] = "1"
	}
	l.Up = true
	return made, nil
}

// RemoveAddrs is as [Host.RemoveAddrs].
func (f *Fake) RemoveAddrs(name string, addrs []netip.Prefix) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.links[name]; l != nil && f.failure == nil {
		l.addrs = slices.DeleteFunc(l.addrs, func(a netip.Prefix) bool { return slices.Contains(addrs, a) })
	}
	return f.failure
}

// DeleteLink is as [Host.DeleteLink].
func (f *Fake) DeleteLink(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure == nil {
		f.delete(name)
	}
	return f.failure
}

func (f *Fake) delete(name string) {
	l := f.links[name]
	if l == nil {
		return
	}
	delete(f.links, name)
	delete(f.links, l.peer)
	f.deleteChildren(l.Index)
	f.routes = slices.DeleteFunc(f.routes, func(r Route) bool { return r.Link == l.Index })
	if l.sandbox != "" {
		delete(f.sandboxes[l.sandbox], l.inside)
	}
	for _, other := range f.links {
		if other.Master == l.Index {
			other.Master = 0
			maps.DeleteFunc(other.fdb, func(_ place, e FDBEntry) bool { return !e.Dst.IsValid() })
		}
	}
}

// AddVeth is as [Host.AddVeth].
func (f *Fake) AddVeth(v Veth) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil {
		return f.failure
	}
	if f.links[v.Host] != nil {
		return f.ensurePort(v)
	}
	if _, err := f.pair(v); err != nil {
		return err
	}
	peer := f.add(Link{Name: v.Peer, Kind: "veth", Group: Group, MTU: v.MTU})
	f.links[v.Host].peer, peer.peer = v.Peer, v.Host
	return nil
}

func (f *Fake) pair(v Veth) (*fakeLink, error) {
	br := f.links[v.Bridge]
	if br == nil {
		return nil, fmt.Errorf("veth %s: bridge %s: %w", v.Host, v.Bridge, ErrNotFound)
	}
	l := f.add(Link{Name: v.Host, Kind: "veth", Group: Group, Master: br.Index, Up: !v.Down, MTU: v.MTU})
	l.Isolated, l.Hairpin = v.Isolated, v.Hairpin
	return l, nil
}

// Attach is as [Host.Attach].
func (f *Fake) Attach(a Attachment) (ifname string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil {
		return "", f.failure
	}
	ns := f.sandboxes[a.Sandbox]
	if ns == nil {
		return "", fmt.Errorf("sandbox %s: %w", a.Sandbox, ErrNotFound)
	}
	if f.links[a.Host] != nil {
		return "", fmt.Errorf("make veth %s: %w", a.Host, ErrExists)
	}
	name := a.Peer
	for i := 0; name == ""; i++ {
		if _, taken := ns[a.Prefix+strconv.Itoa(i)]; !taken {
			name = a.Prefix + strconv.Itoa(i)
		}
	}
	if _, taken := ns[name]; taken {
		return "", fmt.Errorf("make veth %s/%s: %w", a.Host, name, ErrExists)
	}
	l, err := f.pair(a.Veth)
	if err != nil {
		return "", err
	}
	l.sandbox, l.inside, l.carrier = a.Sandbox, name, true
	ns[name] = slices.Clone(a.Addrs)
	return name, nil
}

// EnsurePort is as [Host.EnsurePort].
func (f *Fake) EnsurePort(v Veth) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil {
		return f.failure
	}
	return f.ensurePort(v)
}

func (f *Fake) ensurePort(v Veth) error {
	l, br := f.links[v.Host], f.links[v.Bridge]
	if l == nil {
		return fmt.Errorf("port %s: %w", v.Host, ErrNotFound)
	}
	if br == nil {
		return fmt.Errorf("port %s: bridge %s: %w", v.Host, v.Bridge, ErrNotFound)
	}
	l.Master, l.Up = br.Index, !v.Down
	l.Isolated, l.Hairpin = l.Isolated || v.Isolated, l.Hairpin || v.Hairpin
	return nil
}

// SandboxExists is as [Host.SandboxExists].
func (f *Fake) SandboxExists(path string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sandboxes[path] != nil
}

// LinkByName is as [Host.LinkByName].
func (f *Fake) LinkByName(name string) (Link, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.links[name]; l != nil {
		return l.link(), nil
	}
	for _, l := range f.links {
		if slices.Contains(l.AltNames, name) {
			return l.link(), nil
		}
	}
	return Link{}, fmt.Errorf("link %s: %w", name, ErrNotFound)
}

// link is the link as a Host shows it.
func (l *fakeLink) link() Link {
	out := l.Link
	out.Running = l.Up && l.carrier
	return out
}

// Carry sets the other end of a link up or down, as the engine does once it has moved it.
func (f *Fake) Carry(name string, up bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.links[name]; l != nil {
		l.carrier = up
	}
}

// Links is as [Host.Links].
func (f *Fake) Links() ([]Link, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []Link
	for _, l := range f.sorted() {
		out = append(out, l.link())
	}
	return out, nil
}

func (f *Fake) sorted() []*fakeLink {
	var out []*fakeLink
	for _, l := range f.links {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b *fakeLink) int { return a.Index - b.Index })
	return out
}

// Addresses is as [Host.Addresses].
func (f *Fake) Addresses() ([]Address, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []Address
	for _, l := range f.sorted() {
		for _, a := range l.addrs {
			one := f.flags[a.Addr()]
			one.Link, one.Prefix = l.Index, a
			out = append(out, one)
		}
	}
	return out, nil
}

// Routes is as [Host.Routes].
func (f *Fake) Routes() ([]Route, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := slices.Clone(f.routes)
	for _, l := range f.sorted() {
		for _, a := range l.addrs {
			if l.child.Kind == "" { // those of a shim bring no route
				out = append(out, Route{Dst: a.Masked(), Link: l.Index})
			}
		}
		for _, p := range l.peers {
			out = append(out, Route{Dst: netip.PrefixFrom(p.Addr, p.Addr.BitLen()), Link: l.Index, Ours: true})
		}
	}
	return out, nil
}

// Sysctl is as [Host.Sysctl]; what was never set is "0".
func (f *Fake) Sysctl(key string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if v, ok := f.sysctls[key]; ok {
		return v, nil
	}
	return "0", nil
}

// EnsureSysctl is as [Host.EnsureSysctl].
func (f *Fake) EnsureSysctl(s Sysctl) (changed bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	changed = f.sysctls[s.Key] != s.Value
	f.sysctls[s.Key] = s.Value
	return changed, f.failure
}

// Detach is as [Host.Detach].
func (f *Fake) Detach(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.links[name]; l != nil && f.failure == nil {
		l.Up, l.Group = false, DoomedGroup
	}
	return f.failure
}

// DeleteDoomed is as [Host.DeleteDoomed].
func (f *Fake) DeleteDoomed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil {
		return f.failure
	}
	f.deletions++
	for _, l := range f.sorted() {
		if l.Group == DoomedGroup {
			f.delete(l.Name)
		}
	}
	return nil
}

// Deletions counts the calls of DeleteDoomed.
func (f *Fake) Deletions() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.deletions
}

// ForgetFlows is as [Host.ForgetFlows].
func (f *Fake) ForgetFlows(flows []Flow) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flows = append(f.flows, flows...)
	return f.failure
}

// Lose deletes a device behind everybody's back, as a careless operator would.
func (f *Fake) Lose(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.links[name] == nil {
		return errors.New("no device " + name)
	}
	f.delete(name)
	return nil
}

// Rename gives a device another name.
func (f *Fake) Rename(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.links[from]
	if l == nil || f.links[to] != nil {
		return fmt.Errorf("rename %s to %s: no such device, or the name is taken", from, to)
	}
	delete(f.links, from)
	l.Name, f.links[to] = to, l
	return nil
}

// RouteMatch is the closest of the routes to an address, but for those to the host's own.
func (f *Fake) RouteMatch(to netip.Addr) (Route, error) {
	routes, err := f.Routes()
	best, found := Route{}, false
	for _, r := range routes {
		if r.Dst.Contains(to) && (!found || r.Dst.Bits() > best.Dst.Bits()) {
			best, found = r, true
		}
	}
	if err == nil && (!found || best.Link == 0) {
		err = fmt.Errorf("route to %s: %w", to, ErrNotFound)
	}
	return best, err
}

// Also gives a device an alternative name.
func (f *Fake) Also(name, alternative string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.links[name]
	l.AltNames = append(slices.Clone(l.AltNames), alternative)
}

// Dump prints devices and sandboxes, one line each.
func (f *Fake) Dump() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	names := map[int]string{}
	for _, l := range f.links {
		names[l.Index] = l.Name
	}
	for _, l := range f.sorted() {
		fmt.Fprintf(&b, "%s kind=%s mtu=%d up=%t", l.Name, l.Kind, l.MTU, l.Up)
		if l.Master != 0 {
			fmt.Fprintf(&b, " master=%s", names[l.Master])
		}
		if l.Isolated {
			b.WriteString(" isolated")
		}
		if l.Hairpin {
			b.WriteString(" hairpin")
		}
		for _, a := range l.addrs {
			fmt.Fprintf(&b, " %s", a)
		}
		if l.sandbox != "" {
			fmt.Fprintf(&b, " peer=%s:%s %v", l.sandbox, l.inside, f.sandboxes[l.sandbox][l.inside])
		}
		if l.VLAN != 0 || l.child.Kind != "" {
			fmt.Fprintf(&b, " on=%s", names[l.Parent])
		}
		for _, p := range l.peers {
			fmt.Fprintf(&b, "\n  peer %s", p)
		}
		l.dumpOverlay(&b)
		b.WriteByte('\n')
	}
	f.dumpChildren(&b, names)
	return b.String()
}

var (
	_ Laggard = (*Fake)(nil)
	_ Laggard = (*Host)(nil)
)

package kernel

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
)

// HoldUDPPort makes a foreign process hold a UDP port; held says until when.
func (f *Fake) HoldUDPPort(port uint16, held bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.udp == nil {
		f.udp = map[uint16]bool{}
	}
	f.udp[port] = held
}

// EnsureVXLAN is as [Host.EnsureVXLAN].
func (f *Fake) EnsureVXLAN(v VXLAN) (Change, error) {
	if err := v.check(); err != nil {
		return Kept, err
	}
	v.Local = v.Local.Unmap()
	f.mu.Lock()
	defer f.mu.Unlock()
	br := f.links[v.Bridge]
	switch {
	case f.failure != nil:
		return Kept, f.failure
	case br == nil:
		return Kept, fmt.Errorf("VXLAN device %s: bridge %s: %w", v.Name, v.Bridge, ErrNotFound)
	case br.Kind != "bridge":
		return Kept, fmt.Errorf("VXLAN device %s: device %s %w but of kind %s", v.Name, v.Bridge, ErrNotBridge, br.Kind)
	}
	l := f.links[v.Name]
	if l != nil {
		switch have := l.vxlan; {
		case l.Kind != "vxlan":
			return Kept, fmt.Errorf("device %s %w but of kind %s", v.Name, ErrNotVXLAN, l.Kind)
		case l.Group != Group && l.Group != DoomedGroup:
			return Kept, fmt.Errorf("VXLAN device %s %w and is not weft's: delete or rename it", v.Name, ErrExists)
		case l.Group == DoomedGroup || have.VNI != v.VNI || have.Port != v.Port || have.Local.Is4() != v.Local.Is4():
			f.delete(v.Name)
		default:
			return f.mendVXLAN(l, v, br), nil
		}
	}
	for _, other := range f.sorted() {
		if o := other.vxlan; o.VNI == v.VNI && o.Port == v.Port && sameFamily(o.Local, v.Local) {
			if other.Group == DoomedGroup {
				f.delete(other.Name)
				continue
			}
			return Kept, fmt.Errorf("VXLAN device %s: VNI %d on UDP port %d %w by device %s: give the network another VNI or delete that device",
				v.Name, v.VNI, v.Port, ErrVNIInUse, other.Name)
		}
	}
	if f.udp[v.Port] {
		return Kept, fmt.Errorf("VXLAN device %s: UDP port %d %w: stop that, or choose another port on every host", v.Name, v.Port, ErrPortInUse)
	}
	f.add(Link{Name: v.Name, Kind: "vxlan", Group: Group, MTU: v.MTU})
	f.mendVXLAN(f.links[v.Name], v, br)
	return Made, nil
}

func (f *Fake) mendVXLAN(l *fakeLink, v VXLAN, br *fakeLink) Change {
	before, had := l.Link, l.vxlan
	if l.Master != br.Index { // the bridge forgets what is behind a port that leaves
		maps.DeleteFunc(l.fdb, func(_ place, e FDBEntry) bool { return !e.Dst.IsValid() })
	}
	l.Master, l.Up = br.Index, true
	if v.MTU > 0 {
		l.MTU = v.MTU
	}
	if v.Alias != "" {
		l.Alias = v.Alias
	}
	if v.MAC == nil {
		v.MAC = had.MAC
	}
	l.vxlan = v
	l.vxlan.Bridge, l.vxlan.MTU, l.vxlan.Alias = "", l.MTU, l.Alias
	if reflect.DeepEqual(before, l.Link) && had.Local == v.Local && had.MAC.String() == v.MAC.String() {
		return Kept
	}
	return Mended
}

// VXLANs is as [Host.VXLANs].
func (f *Fake) VXLANs() ([]VXLAN, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	names := map[int]string{}
	for _, l := range f.links {
		names[l.Index] = l.Name
	}
	var out []VXLAN
	for _, l := range f.sorted() {
		if l.Kind == "vxlan" {
			v := l.vxlan
			v.Name, v.MTU, v.Alias, v.Bridge = l.Name, l.MTU, l.Alias, names[l.Master]
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b VXLAN) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// ApplyForwarding is as [Host.ApplyForwarding].
func (f *Fake) ApplyForwarding(c ForwardingChanges) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil {
		return f.failure
	}
	var errs []error
	missing := map[string]bool{}
	link := func(name string) *fakeLink {
		l := f.links[name]
		if l == nil && !missing[name] {
			missing[name] = true
			errs = append(errs, fmt.Errorf("add entries to %s: %w", name, ErrNotFound))
		}
		return l
	}
	added := c.Add.places()
	for _, e := range c.Add.FDB {
		if err := e.check(); err != nil {
			errs = append(errs, err)
		} else if l := link(e.Link); l != nil {
			errs = append(errs, l.addFDB(e))
		}
	}
	for _, n := range c.Add.Neighbors {
		if err := n.check(); err != nil {
			errs = append(errs, err)
		} else if l := link(n.Link); l != nil {
			if l.neighbors == nil {
				l.neighbors = map[place]Neighbor{}
			}
			n.IP = n.IP.Unmap()
			l.neighbors[n.place()] = n
		}
	}
	for _, e := range c.Delete.FDB {
		l := f.links[e.Link]
		if err := e.check(); err != nil {
			errs = append(errs, err)
		} else if l != nil && !added[e.place()] && l.fdb[e.place()] == e {
			delete(l.fdb, e.place())
		}
	}
	for _, n := range c.Delete.Neighbors {
		l := f.links[n.Link]
		if err := n.check(); err != nil {
			errs = append(errs, err)
		} else if l != nil && !added[n.place()] {
			delete(l.neighbors, n.place())
		}
	}
	return errors.Join(errs...)
}

func (l *fakeLink) addFDB(e FDBEntry) error {
	e.Dst = e.Dst.Unmap()
	switch {
	case e.Dst.IsValid() && l.Kind != "vxlan", !e.Dst.IsValid() && l.Master == 0:
		return fmt.Errorf("add %s: the device has no such table", e)
	case e.Dst.IsValid() && l.vxlan.Local.Is4() != e.Dst.Is4():
		return fmt.Errorf("add %s: the tunnel has another address family", e)
	}
	if l.fdb == nil {
		l.fdb = map[place]FDBEntry{}
	}
	l.fdb[e.place()] = e
	return nil
}

// FDB is as [Host.FDB].
func (f *Fake) FDB(link string) ([]FDBEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.links[link] == nil {
		return nil, fmt.Errorf("FDB of %s: %w", link, ErrNotFound)
	}
	return slices.Collect(maps.Values(f.links[link].fdb)), nil
}

// Neighbors is as [Host.Neighbors].
func (f *Fake) Neighbors(link string) ([]Neighbor, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.links[link] == nil {
		return nil, fmt.Errorf("neighbours of %s: %w", link, ErrNotFound)
	}
	return slices.Collect(maps.Values(f.links[link].neighbors)), nil
}

// RouteTo is as [Host.RouteTo]; of several routes the longest prefix is taken.
func (f *Fake) RouteTo(to netip.Addr) (Path, error) {
	to = to.Unmap()
	if !to.IsValid() || to.IsUnspecified() {
		return Path{}, fmt.Errorf("route to %s: address %w: use another host's", to, ErrInvalid)
	}
	routes, err := f.Routes()
	if err != nil {
		return Path{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var best Route
	for _, r := range routes {
		if r.Dst.Contains(to) && (!best.Dst.IsValid() || r.Dst.Bits() > best.Dst.Bits()) {
			best = r
		}
	}
	for _, l := range f.links {
		if !best.Dst.IsValid() || l.Index != best.Link {
			continue
		}
		p := Path{Gateway: best.Gateway, Link: l.Name, MTU: l.MTU}
		for _, a := range l.addrs {
			if a.Addr().Is4() == to.Is4() && !p.Source.IsValid() {
				p.Source = a.Addr()
			}
			if a.Addr() == to {
				return Path{Source: to, Link: "lo", MTU: f.links["lo"].MTU}, nil
			}
		}
		return p, nil
	}
	return Path{}, fmt.Errorf("route to %s: %w", to, ErrNotFound)
}

// dumpOverlay prints what the device is to a tunnel: its settings, its entries
// and the neighbours, sorted.
func (l *fakeLink) dumpOverlay(b *strings.Builder) {
	if l.Kind == "vxlan" {
		fmt.Fprintf(b, " vni=%d port=%d local=%s", l.vxlan.VNI, l.vxlan.Port, l.vxlan.Local)
	}
	var lines []string
	for _, e := range l.fdb {
		lines = append(lines, e.String())
	}
	for _, n := range l.neighbors {
		lines = append(lines, n.String())
	}
	slices.Sort(lines)
	for _, line := range lines {
		b.WriteString("\n  " + line)
	}
}

// Announce is noted, for [Fake.Announced].
func (f *Fake) Announce(list []Neighbor) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.announced = append(f.announced, list...)
	return f.failure
}

// Announced is what Announce was told, in order.
func (f *Fake) Announced() []Neighbor {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.announced)
}

package firewall

import (
	"fmt"
	"maps"
	"slices"
)

// A ledger holds the facts in force and counts which element is owed to how
// many of them, so that a call costs what it changes and not what exists.
type ledger struct {
	networks map[string]Network
	ports    map[string][]Port // by endpoint
	open     map[string][]Open // by endpoint
	uplinks  []string
	bridges  map[string]string // bridge to network
	owed     map[string]debt   // by element.name
	// shortcuts are by network; none is empty.
	shortcuts map[string]Shortcuts
	// tunnel counts the owed elements of the tunnels' table, which is there only
	// if it holds any.
	tunnel int
}

// A debt is an element and the number of facts that need it.
type debt struct {
	element element
	facts   int
}

func newLedger() *ledger {
	return &ledger{
		networks: map[string]Network{}, ports: map[string][]Port{}, open: map[string][]Open{},
		bridges: map[string]string{}, owed: map[string]debt{}, shortcuts: map[string]Shortcuts{},
	}
}

// clone returns a copy that does not change with the ledger.
func (l *ledger) clone() *ledger {
	c := *l
	c.networks, c.ports, c.open = maps.Clone(l.networks), maps.Clone(l.ports), maps.Clone(l.open)
	c.bridges, c.owed, c.shortcuts = maps.Clone(l.bridges), maps.Clone(l.owed), maps.Clone(l.shortcuts)
	return &c
}

// facts returns everything known, in a stable order.
func (l *ledger) facts() Facts {
	f := Facts{Uplinks: slices.Clone(l.uplinks)}
	for _, id := range slices.Sorted(maps.Keys(l.networks)) {
		f.Networks = append(f.Networks, l.networks[id])
	}
	for _, ep := range slices.Sorted(maps.Keys(l.ports)) {
		f.Ports = append(f.Ports, l.ports[ep]...)
	}
	for _, ep := range slices.Sorted(maps.Keys(l.open)) {
		f.Open = append(f.Open, l.open[ep]...)
	}
	return f
}

// A step is a change of facts that is checked but not yet made.
type step struct {
	ledger  *ledger
	balance map[string]debt // element.name to the new debt
	order   []string        // names in balance, in order of appearance
	apply   func()
	// networks is by how many the number of networks grows.
	networks int
}

func (l *ledger) step() *step {
	return &step{ledger: l, balance: map[string]debt{}, apply: func() {}}
}

func (s *step) get(name string) debt {
	if d, ok := s.balance[name]; ok {
		return d
	}
	s.order = append(s.order, name)
	return s.ledger.owed[name]
}

// release says that one fact no longer needs these elements.
func (s *step) release(es []element) {
	for _, e := range es {
		d := s.get(e.name())
		d.facts--
		s.balance[e.name()] = d
	}
}

// acquire says that one more fact needs these elements.
func (s *step) acquire(es []element) error {
	for _, e := range es {
		d := s.get(e.name())
		if d.facts > 0 && d.element != e {
			s.balance[e.name()] = d
			return fmt.Errorf("element %q: %w (%s)", e, ErrConflict, d.element)
		}
		s.balance[e.name()] = debt{e, d.facts + 1}
	}
	return nil
}

// change returns what the step does to the table.
func (s *step) change() change {
	c := change{remove: map[setName][]raw{}, add: map[setName][]raw{}}
	for _, name := range s.order {
		was, is := s.ledger.owed[name], s.balance[name]
		if was.facts > 0 && (is.facts == 0 || is.element != was.element) {
			c.remove[was.element.set] = append(c.remove[was.element.set], was.element.raws()...)
		}
		if is.facts > 0 && (was.facts == 0 || is.element != was.element) {
			c.add[is.element.set] = append(c.add[is.element.set], is.element.raws()...)
		}
	}
	return c
}

// tunnel returns how many elements the tunnels' table has after the step.
func (s *step) tunnel() int {
	after := s.ledger.tunnel
	for name, is := range s.balance {
		was := s.ledger.owed[name]
		if was.facts > 0 && was.element.set.tunnel() {
			after--
		}
		if is.facts > 0 && is.element.set.tunnel() {
			after++
		}
	}
	return after
}

// commit makes the change of facts.
func (s *step) commit() {
	s.ledger.tunnel = s.tunnel()
	for name, d := range s.balance {
		if d.facts == 0 {
			delete(s.ledger.owed, name)
		} else {
			s.ledger.owed[name] = d
		}
	}
	s.apply()
}

// addNetwork plans the addition of a network, or its new description.
func (l *ledger) addNetwork(n Network) (*step, error) {
	if err := n.validate(); err != nil {
		return nil, err
	}
	if owner, ok := l.bridges[n.Bridge]; ok && owner != n.ID {
		return nil, fmt.Errorf("bridge %s of network %s: %w: it is the bridge of network %s", n.Bridge, n.ID, ErrConflict, owner)
	}
	if err := l.overlaps(n); err != nil {
		return nil, fmt.Errorf("network %s: %w", n.ID, err)
	}
	s := l.step()
	old, known := l.networks[n.ID]
	if known {
		s.release(networkElements(old))
	} else {
		s.networks = 1
	}
	if err := s.acquire(networkElements(n)); err != nil {
		return nil, fmt.Errorf("network %s: %w", n.ID, err)
	}
	s.apply = func() {
		delete(l.bridges, old.Bridge)
		l.networks[n.ID], l.bridges[n.Bridge] = n, n.ID
	}
	return s, nil
}

// overlaps refuses what an interval set cannot hold: a masqueraded subnet that
// contains, or is contained in, another one.
func (l *ledger) overlaps(n Network) error {
	for _, v6 := range []bool{false, true} {
		for _, f := range n.family(v6) {
			for _, other := range l.networks {
				if other.ID == n.ID || !n.masquerades(f) {
					continue
				}
				for _, o := range other.family(v6) {
					if other.masquerades(o) && o.Subnet.Overlaps(f.Subnet) && o.Subnet.Masked() != f.Subnet.Masked() {
						return fmt.Errorf("subnet %v: %w: it overlaps %v of network %s", f.Subnet, ErrConflict, o.Subnet, other.ID)
					}
				}
			}
		}
	}
	return nil
}

// removeNetwork plans the removal of a network and of the ports in it.
func (l *ledger) removeNetwork(id string) *step {
	s := l.step()
	n, known := l.networks[id]
	if !known {
		return s
	}
	s.networks = -1
	s.release(networkElements(n))
	ports, open := maps.Clone(l.ports), maps.Clone(l.open)
	for ep, ps := range l.ports {
		ports[ep] = keep(s, ps, portElements, func(p Port) bool { return p.Bridge != n.Bridge })
	}
	for ep, os := range l.open {
		open[ep] = keep(s, os, openElements, func(o Open) bool { return !n.contains(o.Container.Addr()) })
	}
	s.apply = func() {
		delete(l.networks, id)
		delete(l.shortcuts, id)
		delete(l.bridges, n.Bridge)
		maps.DeleteFunc(ports, func(_ string, ps []Port) bool { return len(ps) == 0 })
		maps.DeleteFunc(open, func(_ string, os []Open) bool { return len(os) == 0 })
		l.ports, l.open = ports, open
	}
	return s
}

// keep returns the facts to keep and releases the others.
func keep[T any](s *step, facts []T, elements func(T) []element, stays func(T) bool) []T {
	var out []T
	for _, f := range facts {
		if stays(f) {
			out = append(out, f)
		} else {
			s.release(elements(f))
		}
	}
	return out
}

// addPorts plans the publication of ports; those in force already are skipped.
func (l *ledger) addPorts(ports []Port, open []Open) (*step, error) {
	s := l.step()
	newPorts, newOpen := map[string][]Port{}, map[string][]Open{}
	for _, p := range ports {
		if err := p.validate(); err != nil {
			return nil, err
		}
		if _, ok := l.bridges[p.Bridge]; !ok {
			return nil, fmt.Errorf("port %v of endpoint %s: bridge %q: %w", p.Host, p.Endpoint, p.Bridge, ErrUnknownBridge)
		}
		if err := extend(s, l.ports[p.Endpoint], newPorts, p.Endpoint, p, portElements); err != nil {
			return nil, fmt.Errorf("port %s/%v of endpoint %s: %w", p.Proto, p.Host, p.Endpoint, err)
		}
	}
	for _, o := range open {
		if err := o.validate(); err != nil {
			return nil, err
		}
		if err := extend(s, l.open[o.Endpoint], newOpen, o.Endpoint, o, openElements); err != nil {
			return nil, fmt.Errorf("open port %s/%v of endpoint %s: %w", o.Proto, o.Container, o.Endpoint, err)
		}
	}
	s.apply = func() {
		for ep, ps := range newPorts {
			l.ports[ep] = append(l.ports[ep], ps...)
		}
		for ep, os := range newOpen {
			l.open[ep] = append(l.open[ep], os...)
		}
	}
	return s, nil
}

// extend acquires a fact unless it is in force or in this step already.
func extend[T comparable](s *step, known []T, added map[string][]T, endpoint string, fact T, elements func(T) []element) error {
	if slices.Contains(known, fact) || slices.Contains(added[endpoint], fact) {
		return nil
	}
	if err := s.acquire(elements(fact)); err != nil {
		return err
	}
	added[endpoint] = append(added[endpoint], fact)
	return nil
}

// removePorts plans the removal of everything that an endpoint published.
func (l *ledger) removePorts(endpoint string) *step {
	s := l.step()
	for _, p := range l.ports[endpoint] {
		s.release(portElements(p))
	}
	for _, o := range l.open[endpoint] {
		s.release(openElements(o))
	}
	s.apply = func() {
		delete(l.ports, endpoint)
		delete(l.open, endpoint)
	}
	return s
}

// setUplinks plans another set of uplinks.
func (l *ledger) setUplinks(names []string) (*step, error) {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	s := l.step()
	for _, u := range l.uplinks {
		s.release(uplinkElements(u))
	}
	for _, u := range names {
		if err := validateInterface(u); err != nil {
			return nil, fmt.Errorf("uplink: %w", err)
		}
		if err := s.acquire(uplinkElements(u)); err != nil {
			return nil, fmt.Errorf("uplink %s: %w", u, err)
		}
	}
	s.apply = func() { l.uplinks = names }
	return s, nil
}

// ledgerOf books a whole set of facts at once.
func ledgerOf(f Facts) (*ledger, error) {
	l := newLedger()
	for _, n := range f.Networks {
		s, err := l.addNetwork(n)
		if err != nil {
			return nil, err
		}
		s.commit()
	}
	s, err := l.addPorts(f.Ports, f.Open)
	if err != nil {
		return nil, err
	}
	s.commit()
	if s, err = l.setUplinks(f.Uplinks); err != nil {
		return nil, err
	}
	s.commit()
	return l, nil
}

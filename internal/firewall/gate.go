package firewall

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// A gate keeps weft's packets passing the host's iptables, in both families and
// flavours.
type gate struct {
	tables  *tables
	xtables map[bool][]*xtables // by family
	// edits counts own changes, for those who compare what they see with what
	// they saw.
	edits atomic.Uint64
}

func newGate(t *tables, paths IPTables) *gate {
	g := &gate{tables: t, xtables: map[bool][]*xtables{}}
	for _, v6 := range []bool{false, true} {
		for _, f := range []Flavour{FlavourNFT, FlavourLegacy} {
			g.xtables[v6] = append(g.xtables[v6], &xtables{flavour: f, v6: v6, path: paths.path(f, v6), ns: t.ns})
		}
	}
	return g
}

// open puts the jumps where they belong and removes them where they do not. It
// returns what is in force by family (false: IPv4) and what it had to change.
func (g *gate) open() (map[bool]Coexistence, []string, error) {
	return g.each(place)
}

// close removes everything of weft from iptables.
func (g *gate) close() ([]string, error) {
	_, changed, err := g.each(func(map[Flavour]filterTable) Coexistence { return Coexistence{} })
	return changed, err
}

// each decides for one family and makes it so, beside the other one: every look at
// iptables and every edit is a process, and while weft waits for one, its own table is
// not looked at.
func (g *gate) each(decide func(map[Flavour]filterTable) Coexistence) (map[bool]Coexistence, []string, error) {
	families := []bool{false, true}
	var done [2]struct {
		Coexistence
		changed []string
		err     error
	}
	var wg sync.WaitGroup
	for i, v6 := range families {
		present, err := g.present(v6)
		wg.Go(func() {
			d := &done[i]
			d.Coexistence, d.changed, d.err = g.family(v6, present, decide)
			d.err = errors.Join(err, d.err)
		})
	}
	wg.Wait()
	return map[bool]Coexistence{false: done[0].Coexistence, true: done[1].Coexistence},
		slices.Concat(done[0].changed, done[1].changed), errors.Join(done[0].err, done[1].err)
}

// present returns the flavours that have a filter table of the family, and its chains as
// far as they are known. It runs no program.
func (g *gate) present(v6 bool) (map[*xtables][]string, error) {
	present := map[*xtables][]string{}
	var errs []error
	for _, x := range g.xtables[v6] {
		ok, chains, err := x.present(g.tables)
		if ok {
			present[x] = chains
		}
		errs = append(errs, err)
	}
	return present, errors.Join(errs...)
}

func (g *gate) family(v6 bool, present map[*xtables][]string, decide func(map[Flavour]filterTable) Coexistence) (Coexistence, []string, error) {
	found := map[Flavour]filterTable{}
	var changed []string
	var errs []error
	for x, chains := range present {
		t, ok, err := x.read(chains)
		if err != nil {
			errs = append(errs, err)
		} else if ok {
			found[x.flavour] = t
		}
	}
	c := decide(found)
	for _, x := range g.xtables[v6] {
		es := found[x.flavour].edits(c.chain(x.flavour))
		errs = append(errs, x.apply(es))
		g.edits.Add(uint64(len(es)))
		for _, e := range es {
			changed = append(changed, fmt.Sprintf("%s: %s in %s", x.path, e.verb, e.chain))
		}
	}
	return c, changed, errors.Join(errs...)
}

package firewall

import (
	"errors"
	"fmt"
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

func (g *gate) each(decide func(map[Flavour]filterTable) Coexistence) (map[bool]Coexistence, []string, error) {
	result := map[bool]Coexistence{}
	var changed []string
	var errs []error
	for _, v6 := range []bool{false, true} {
		found := map[Flavour]filterTable{}
		for _, x := range g.xtables[v6] {
			t, ok, err := g.look(x)
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
		result[v6] = c
	}
	return result, changed, errors.Join(errs...)
}

func (g *gate) look(x *xtables) (filterTable, bool, error) {
	if ok, err := x.present(g.tables); err != nil || !ok {
		return filterTable{}, false, err
	}
	return x.read()
}

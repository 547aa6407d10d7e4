package accord_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/driver/accord"
	"github.com/weft-net/weft/internal/directory"
)

// book is a directory of one network, which another host may just have made.
type book struct {
	have   directory.Network
	late   bool // Named does not know it yet
	unseen int  // how often Lookup does not see it
	err    error
	joined string
	found  int
}

func (b *book) Found(_ context.Context, n directory.Network, _ bool, _ []uint32) (directory.Network, error) {
	b.found++
	if b.err != nil {
		return n, b.err
	}
	if n.Name != "" && n.Name == b.have.Name {
		return n, directory.ErrName
	}
	return n, nil
}

func (b *book) Join(_ context.Context, uuid string) (directory.Network, error) {
	b.joined = uuid
	return b.have, b.err
}

func (b *book) Named(name string) (directory.Network, bool) {
	return b.have, !b.late && name == b.have.Name
}

func (b *book) Lookup(_ context.Context, name string) (directory.Network, bool, error) {
	b.unseen--
	return b.have, b.unseen < 0 && name == b.have.Name, b.err
}

// TestReach: a new network, one that is known, one that another host made a moment ago.
func TestReach(t *testing.T) {
	theirs := directory.Network{UUID: "theirs", Name: "lan", Mode: "macvlan", Options: map[string]string{"parent": "eth0"}}
	mine := directory.Network{UUID: "mine", Name: "lan", Mode: "macvlan", Options: map[string]string{"parent": "eth1"}}
	nameless := mine
	nameless.Name = ""
	fit := func(have directory.Network) (directory.Network, error) {
		out := mine
		out.Options = have.Options
		return out, nil
	}
	refuse := func(directory.Network) (directory.Network, error) { return mine, errors.New("not here") }
	for name, c := range map[string]struct {
		book  *book
		terms accord.Terms
		want  string
		err   string
	}{
		"nameless":         {&book{have: theirs}, accord.Terms{Network: nameless}, "mine", ""},
		"new":              {&book{}, accord.Terms{Network: mine}, "mine", ""},
		"known":            {&book{have: theirs}, accord.Terms{Network: mine, Fit: fit}, "theirs", ""},
		"not known yet":    {&book{have: theirs, late: true}, accord.Terms{Network: mine, Fit: fit}, "theirs", ""},
		"made meanwhile":   {&book{have: theirs, late: true, unseen: 1}, accord.Terms{Network: mine, Fit: fit}, "theirs", ""},
		"another one":      {&book{have: theirs}, accord.Terms{Network: mine}, "", "the cluster has a network lan"},
		"does not fit":     {&book{have: theirs}, accord.Terms{Network: mine, Fit: refuse}, "", "not here"},
		"without a store":  {&book{err: directory.ErrNoStore}, accord.Terms{Network: nameless}, "", "has to be known to all hosts"},
		"nor a look at it": {&book{err: directory.ErrNoStore}, accord.Terms{Network: mine}, "", "has to be known to all hosts"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := accord.Reach(t.Context(), c.book, c.terms)
			switch {
			case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
				t.Errorf("the error %v lacks %q", err, c.err)
			case c.err == "" && (err != nil || got.UUID != c.want):
				t.Errorf("%s, %v, want %s", got.UUID, err, c.want)
			}
			if joined := c.want == "theirs"; (c.book.joined != "") != joined {
				t.Errorf("joined %q", c.book.joined)
			}
		})
	}
}

// TestCommon: what hosts must have in common, and nothing else.
func TestCommon(t *testing.T) {
	n := driver.Network{Internal: true, IPv4: []driver.Subnet{{Pool: netip.MustParsePrefix("10.2.0.0/24")}, {Pool: netip.MustParsePrefix("10.1.0.0/24")}}}
	got := accord.Common(n, "vlan7", map[string]string{"mode": "l2", "flag": ""})
	if len(got) != 3 || got["internal"] != "true" || got["mode"] != "l2" || accord.Domain(directory.Network{Options: got}) != "vlan7" {
		t.Errorf("common %v", got)
	}
	if p := accord.Pools(n); len(p) != 2 || p[0].String() != "10.1.0.0/24" {
		t.Errorf("pools %v", p)
	}
	for name, good := range map[string]bool{"lan": true, "my_lan-1.a": true, "büro 1": true, "": false, "la\tn": false, "\xff": false, strings.Repeat("x", 1025): false} {
		if err := accord.Option().Check(name); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
}

package cluster_test

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/journal"
)

// prints are machines that the tests below start on.
func prints() map[string]cluster.Fingerprint {
	list := func(s ...string) []string { return s }
	return map[string]cluster.Fingerprint{
		"blind":        {},
		"vm":           {Product: "p", Machine: "m", MACs: list("a", "b")},
		"vm 2":         {Product: "p2", Machine: "m", MACs: list("c")},
		"card":         {MACs: list("a", "b")},
		"card changed": {MACs: list("b", "c")},
		"card 2":       {MACs: list("x", "y")},
		"ct":           {Uplinks: list("u"), Links: list("u", "v")},
		"ct id":        {Machine: "m", Uplinks: list("u"), Links: list("u", "v")},
		"ct id 2":      {Machine: "m", Uplinks: list("z"), Links: list("z", "v")},
		"ct 2":         {Uplinks: list("z"), Links: list("z", "v")},
		"ct moved":     {Uplinks: list("v"), Links: list("u", "v")}, // its default route is over another link
		"ct no route":  {Links: list("z", "v")},
		"ct both":      {Uplinks: list("u", "z"), Links: list("u", "z")},
		"vm set":       {Product: "p", Uplinks: list("u"), Links: list("u")},
		"vm set 2":     {Product: "p", Uplinks: list("z"), Links: list("z")},
		"card set":     {MACs: list("a"), Uplinks: list("z"), Links: list("z")},
	}
}

func TestSame(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		known, now string
		want       bool
	}{
		{"blind", "blind", true},
		{"blind", "vm", true},
		{"vm", "blind", true},
		{"vm", "vm", true},
		{"vm", "vm 2", false},
		{"card", "card changed", true},
		{"card", "card 2", false},
		{"card", "vm", true},

		{"ct", "ct", true},
		{"ct", "ct 2", false},
		{"ct id", "ct id 2", false}, // a copy has the machine-id too
		{"ct", "ct moved", true},
		{"ct moved", "ct", true},
		{"ct", "ct both", true},
		{"ct both", "ct 2", true}, // one of two is left
		{"ct both", "ct", true},
		// What cannot be read says nothing: a journal of an older weft, no route yet.
		{"blind", "ct", true},
		{"ct", "blind", true},
		{"ct", "ct no route", true},
		{"ct no route", "ct", true},
		// An address that can be changed says nothing of a machine that has a better part.
		{"vm set", "vm set 2", true},
		{"vm set", "ct 2", true},
		{"ct", "vm set 2", true},
		{"ct", "card set", true},
		{"card set", "ct", true},
	} {
		t.Run(c.known+" is "+c.now, func(t *testing.T) {
			t.Parallel()
			if got := prints()[c.known].Same(prints()[c.now]); got != c.want {
				t.Errorf("%t, not %t", got, c.want)
			}
		})
	}
}

// TestLoadIdentity starts a journal on one machine after the other.
func TestLoadIdentity(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		machines []string
		renewed  bool                // by the last start; no other renews
		known    cluster.Fingerprint // after it
	}{
		{"a first start", []string{"vm"}, false, prints()["vm"]},
		{"a first start without a route", []string{"ct no route"}, false, cluster.Fingerprint{}},
		{"a journal without the uplink learns it", []string{"blind", "ct"}, false, cluster.Fingerprint{Uplinks: []string{"u"}}},
		{"and then knows a copy", []string{"blind", "ct", "ct 2"}, true, cluster.Fingerprint{Uplinks: []string{"z"}}},
		{"a start without a route forgets nothing", []string{"ct id", "ct no route"}, false, cluster.Fingerprint{Machine: "m", Uplinks: []string{"u"}}},
		{"so that a copy is known after it", []string{"ct", "ct no route", "ct 2"}, true, cluster.Fingerprint{Uplinks: []string{"z"}}},
		{"a start that reads nothing forgets nothing", []string{"vm", "blind"}, false, prints()["vm"]},
		{"a start that reads only cards forgets nothing", []string{"vm", "card"}, false, prints()["vm"]},
		{"cards change one by one", []string{"card", "card changed"}, false, prints()["card changed"]},
		{"all cards are others", []string{"card", "card 2"}, true, prints()["card 2"]},
		{"a default route moves", []string{"ct", "ct moved"}, false, cluster.Fingerprint{Uplinks: []string{"v"}}},
		{"a copy that has come to know itself", []string{"ct", "ct 2"}, true, cluster.Fingerprint{Uplinks: []string{"z"}}},
		{"a card's set address changes", []string{"vm set", "vm set 2"}, false, cluster.Fingerprint{Product: "p", Uplinks: []string{"z"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			j, err := journal.Open(filepath.Join(t.TempDir(), "journal.db"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = j.Close() })
			var before cluster.Identity
			for i, name := range c.machines {
				id, renewed, err := cluster.LoadIdentity(j, prints()[name])
				if err != nil {
					t.Fatal(err)
				}
				if want := c.renewed && i == len(c.machines)-1; renewed != want || i > 0 && (id.ID == before.ID) == want {
					t.Fatalf("start %d on %q: renewed %t, %s after %s", i, name, renewed, id.ID, before.ID)
				}
				if err := j.Commit(t.Context(), id.Op()); err != nil {
					t.Fatal(err)
				}
				before = id
			}
			if d := cmp.Diff(c.known, before.Machine); d != "" {
				t.Errorf("what is known (-want +got):\n%s", d)
			}
		})
	}
}

package cluster_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// TestNameBeforeContact: hosts have names before the store was reached.
func TestNameBeforeContact(t *testing.T) {
	t.Parallel()
	c := cluster.New(cluster.Config{Name: "h1", Identity: cluster.Identity{ID: "aaaa", Names: map[ownership.Host]string{"bbbb": "h2"}}})
	for id, want := range map[ownership.Host]string{"aaaa": "h1", "bbbb": "h2", "cccc": "cccc"} {
		if got := c.Name(id); got != want {
			t.Errorf("host %s is called %q, want %q", id, got, want)
		}
	}
}

// TestHostsBeforeContact: until the store was reached there are the hosts that the journal
// knows, this one among them, and nothing is said against a host that it does not know.
func TestHostsBeforeContact(t *testing.T) {
	t.Parallel()
	s := store.NewFake().Peer()
	s.SetDown(true)
	c := cluster.New(cluster.Config{Store: s, Name: "h1", Identity: cluster.Identity{
		ID: "aaaa", Known: []ownership.Host{"bbbb", "cccc"}, Removed: []ownership.Host{"cccc"}, Names: map[ownership.Host]string{"bbbb": "h2", "cccc": "h3"},
	}})
	want := []cluster.HostView{{ID: "aaaa", Name: "h1", Stale: true, Me: true}, {ID: "bbbb", Name: "h2", Stale: true}}
	same := func(a, b cluster.HostView) bool {
		return a.ID == b.ID && a.Name == b.Name && a.Me == b.Me && a.Stale == b.Stale && a.Connected == b.Connected
	}
	if got := c.Hosts(); !slices.EqualFunc(got, want, same) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if _, err := c.RemoveHost(t.Context(), cluster.Removal{Name: "h4"}); !errors.Is(err, store.ErrDown) {
		t.Errorf("remove a host that only the store may know: %v", err)
	}
}

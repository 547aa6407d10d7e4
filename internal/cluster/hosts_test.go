package cluster_test

import (
	"testing"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/ownership"
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

package main

import (
	"testing"

	"github.com/weft-net/weft/internal/admin"
)

func TestNetworkState(t *testing.T) {
	for _, c := range []struct {
		net  admin.ClusterNetwork
		want string
	}{
		{admin.ClusterNetwork{State: "present"}, "present"},
		{admin.ClusterNetwork{State: "removed", Hosts: []string{"h2", "h3"}}, "removed: waits for h2, h3"},
		{admin.ClusterNetwork{State: "removed", Hosts: []string{"h2"}, Why: "the engine refused: it is in use"}, "removed: the engine refused: it is in use"},
		{admin.ClusterNetwork{State: "conflict", Why: "the engine has another network of this name"}, "conflict: the engine has another network of this name"},
		{admin.ClusterNetwork{}, "unknown"},
	} {
		if got := networkState(c.net); got != c.want {
			t.Errorf("%q instead of %q", got, c.want)
		}
	}
}

package main

import (
	"context"
	"strings"
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

// TestClusterNetworks: only networks that have a VXLAN identifier are said to have one.
func TestClusterNetworks(t *testing.T) {
	list := []admin.ClusterNetwork{{Name: "wide", Mode: "overlay", VNI: 4097, Hosts: []string{"h1"}}, {Name: "lan", Mode: "macvlan", Hosts: []string{"h1"}}}
	socket := serveAdmin(t, admin.Source{
		ClusterNetworks: func(context.Context) (admin.ClusterNetworks, error) {
			return admin.ClusterNetworks{Networks: list}, nil
		},
		RemoveNetwork: func(_ context.Context, r admin.NetworkRemoval) (admin.ClusterNetwork, error) {
			return list[map[string]int{"lan": 1}[r.Name]], nil
		},
	})
	weft := func(args ...string) string {
		t.Helper()
		out, err := run(t, append(append([]string{"network"}, args...), "--socket", socket)...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	rows := strings.Split(weft("ls"), "\n")
	if got := strings.Join(append(strings.Fields(rows[1])[:3], strings.Fields(rows[2])[:3]...), " "); got != "wide overlay 4097 lan macvlan -" {
		t.Errorf("weft network ls: %s", got)
	}
	if out := weft("ls", "--json"); strings.Count(out, `"vni"`) != 1 {
		t.Errorf("weft network ls --json: %s", out)
	}
	if wide, lan := weft("rm", "wide"), weft("rm", "lan"); !strings.Contains(wide, "its subnets and VXLAN identifier when") || !strings.Contains(lan, "its subnets when") {
		t.Errorf("weft network rm: %s%s", wide, lan)
	}
}

package namesync

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/engine"
	"github.com/weft-net/weft/internal/ownership"
)

var update = flag.Bool("update", false, "write the golden files")

func at(network, endpoint, addr string) engine.Attachment {
	return engine.Attachment{Network: network + "-id", NetworkName: network, Endpoint: endpoint, Addrs: []netip.Addr{netip.MustParseAddr(addr)}}
}

func container(id, name string, ats ...engine.Attachment) engine.Container {
	return engine.Container{ID: id, Name: name, Hostname: id[:min(12, len(id))], Sandbox: "/ns/" + id[:2], Running: true, Attachments: ats}
}

func remote(host, id, addr string, called ...string) directory.Endpoint {
	return directory.Endpoint{Host: ownership.Host(host), ID: id, Names: called, Addrs: []netip.Addr{netip.MustParseAddr(addr)}}
}

// text is a plan as a person reads it.
func (p plan) text() string {
	var b strings.Builder
	for _, n := range p.book {
		fmt.Fprintf(&b, "network %s %q, the engine answers: %t\n", n.ID, n.Name, n.Engine)
		for _, e := range n.Endpoints {
			where := e.Host
			if e.Local {
				where += " (here)"
			}
			fmt.Fprintf(&b, "  %s of %s: %s = %v\n", e.ID, where, strings.Join(e.Names, ", "), e.Addrs)
		}
	}
	for _, c := range p.attend {
		fmt.Fprintf(&b, "attend %s (%s): networks %s, private %s\n", c.Sandbox, c.Name, strings.Join(c.Networks, " "), strings.Join(c.Private, " "))
	}
	for _, f := range p.fronts {
		fmt.Fprintf(&b, "answer at %s for %s: network %s\n", f.At, f.From, f.Network)
	}
	return b.String()
}

// TestPlan: what follows for a host with containers on all sorts of networks.
func TestPlan(t *testing.T) {
	db := at("demo", "e-db", "10.1.0.3")
	db.Aliases = []string{"database", "web", "b0b0b0b0b0b0"}
	db.Links = []string{"web:front", "web", "/x/y:/x/deep"}
	early, prio := at("zlast", "e-z", "10.3.0.2"), at("mine", "e-m", "10.2.0.2")
	early.GatewayPriority = 5
	f := facts{
		host: "h1",
		containers: map[string]engine.Container{
			"a": container("a0a0a0a0a0a0a0a0", "web", at("demo", "e-web", "10.1.0.2"), at("back", "e-back", "10.4.0.2"), prio, early, at("bridge", "e-b", "172.17.0.2"), at("gossip", "e-g", "10.9.0.2")),
			"b": container("b0b0b0b0b0b0b0b0", "db", db),
			"c": container("c0c0c0c0c0c0c0c0", "neighbour", at("mine", "e-n", "10.2.0.3"), at("other", "e-o", "10.5.0.2")),
		},
		networks: map[string]engine.Network{
			"demo-id": {Name: "demo"}, "mine-id": {Name: "mine"}, "zlast-id": {Name: "zlast"}, "other-id": {Name: "other"},
			"back-id": {Name: "back", Internal: true}, "bridge-id": {Name: "bridge"}, "gossip-id": {Name: "gossip", Scope: "swarm"},
		},
		shared: []Network{
			{ID: "demo-id", UUID: "u1", Places: []Place{{"e-web", "/ns/a0"}, {"e-db", "/ns/b0"}, {"e-new", "/ns/d0"}, {"e-old", "/ns/e0"}}},
			{ID: "fresh-id", UUID: "u2", Name: "fresh", Places: []Place{{"e-new2", "/ns/d0"}, {"e-late", "/ns/a0"}}},
			{ID: "empty-id", UUID: "u3", Name: "empty", Own: []netip.Prefix{netip.MustParsePrefix("10.7.0.1/24"), netip.MustParsePrefix("fd07::1/64")}},
		},
		remote: map[string][]directory.Endpoint{
			"u1": {remote("h2", "r1", "10.1.0.9", "redis", "cache"), remote("h2", "nameless", "10.1.0.8"), remote("h3", "r2", "10.1.0.7", "redis")},
			"u3": {remote("h2", "r3", "10.7.0.2", "lonely")},
		},
	}
	p := f.plan()
	golden(t, "plan.txt", p.text())
	if got := strings.Join(p.called["e-db"], " "); got != "db b0b0b0b0b0b0 database web" {
		t.Errorf("db is called %s", got)
	}
	if len(p.called) != 9 {
		t.Errorf("%d endpoints have names: %v", len(p.called), p.called)
	}
}

// TestOrder: a name that several networks of a container know is looked up in the engine's
// order.
func TestOrder(t *testing.T) {
	of := func(network string, priority, gateways int) engine.Attachment {
		a := at(network, "e-"+network, "10.1.0.2")
		a.GatewayPriority, a.Gateways = priority, gateways
		return a
	}
	f := facts{networks: map[string]engine.Network{"a4-id": {}, "z6-id": {}, "b4-id": {}, "none-id": {}, "int-id": {Internal: true}, "first-id": {Internal: true}}}
	got := f.inOrder(container("a0a0", "web", of("none", 0, 0), of("b4", 0, 1), of("int", 0, 2), of("z6", 0, 2), of("a4", 0, 1), of("first", 7, 0)))
	if want := "first-id z6-id a4-id b4-id none-id int-id"; strings.Join(got, " ") != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not\n%s", got, want)
	}
}

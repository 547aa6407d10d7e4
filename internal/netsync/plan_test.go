package netsync

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/engine"
	"github.com/weft-net/weft/internal/ownership"
)

// rec is a record of the cluster: its UUID is the name in small letters of the test.
func rec(uuid, name string, change ...func(*directory.Network)) directory.Network {
	r := directory.Network{UUID: uuid, Name: name, Mode: "overlay", Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")},
		Hosts: []ownership.Host{"other"}}
	if name != "" {
		r.Spec = []byte(`{"v":1}`)
	}
	for _, c := range change {
		c(&r)
	}
	return r
}

func removed(r *directory.Network)     { r.Removed = true }
func undescribed(r *directory.Network) { r.Spec = nil }
func elsewhere(r *directory.Network) {
	r.Subnets = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24")}
}

func net(id, name string) engine.Network { return engine.Network{ID: id, Name: name, Scope: "local"} }

func TestPlan(t *testing.T) {
	swarm := net("s", "demo")
	swarm.Scope = "swarm"
	for name, c := range map[string]struct {
		facts
		todo, states string // states as uuid=state
		forget       string
	}{
		"nothing": {},
		"a new network is told": {
			facts: facts{networks: []engine.Network{net("1", "demo")}, records: []directory.Network{rec("u", "")}, local: []Local{{ID: "1", UUID: "u"}}},
			todo:  "describe u 1", states: "u=present"},
		"by -o net=NAME it has a name, and no description": {
			facts: facts{networks: []engine.Network{net("1", "mine")}, records: []directory.Network{rec("u", "demo", undescribed)}, local: []Local{{ID: "1", UUID: "u"}}},
			todo:  "describe u 1", states: "u=present"},
		"all is well": {
			facts:  facts{networks: []engine.Network{net("1", "demo")}, records: []directory.Network{rec("u", "demo")}, local: []Local{{ID: "1", UUID: "u"}}},
			states: "u=present"},
		"others have it": {
			facts: facts{networks: []engine.Network{net("1", "bridge")}, records: []directory.Network{rec("u", "demo")}},
			todo:  "create u ", states: "u=creating"},
		"others have it, and have not said what it is": {
			facts: facts{records: []directory.Network{rec("u", "demo", undescribed), rec("v", "")}}, states: "u=absent v=absent"},
		"a user removed it here": {
			facts: facts{records: []directory.Network{rec("u", "demo")}, absent: map[string]bool{"u": true}}, states: "u=absent"},
		"a user removed it here, and now it is gone everywhere": {
			facts: facts{absent: map[string]bool{"u": true}}, forget: "u"},
		"the engine has a foreign network of this name": {
			facts:  facts{networks: []engine.Network{net("1", "demo")}, records: []directory.Network{rec("u", "demo")}},
			states: "u=conflict"},
		"a network of a Swarm is left alone": {
			facts:  facts{networks: []engine.Network{swarm}, records: []directory.Network{rec("u", "")}, local: []Local{{ID: "s", UUID: "u"}}},
			states: "u=present"},
		"a network of a Swarm is known by its id": {
			facts: facts{networks: []engine.Network{net("vvvvvvvvvvvvvvvvvvvvvvvvv", "demo")}, records: []directory.Network{rec("u", "")},
				local: []Local{{ID: "vvvvvvvvvvvvvvvvvvvvvvvvv", UUID: "u"}}},
			states: "u=present"},
		"the engine does not list it yet": {
			facts:  facts{records: []directory.Network{rec("u", "")}, local: []Local{{ID: "1", UUID: "u"}}},
			states: "u=present"},
		"the engine lost it": {
			facts: facts{records: []directory.Network{rec("u", "demo")}, local: []Local{{ID: "1", UUID: "u", Lost: true}}},
			todo:  "clean away u 1", states: "u=creating"},
		"a user removed it while weft did not run": {
			facts: facts{engine: "e", records: []directory.Network{rec("u", "demo")}, local: []Local{{ID: "1", UUID: "u", Lost: true, Listed: "e"}}},
			todo:  "part from u 1", states: "u=absent"},
		"the engine lost it, and weft has endpoints": {
			facts:  facts{records: []directory.Network{rec("u", "demo")}, local: []Local{{ID: "1", UUID: "u", Lost: true, Endpoints: 1}}},
			states: "u=present"},
		"the engine lost all that it had": {
			facts: facts{engine: "f", records: []directory.Network{rec("u", "demo")}, local: []Local{{ID: "1", UUID: "u", Lost: true, Listed: "e"}}},
			todo:  "clean away u 1", states: "u=creating"},
		"the store lost it": {
			facts:  facts{networks: []engine.Network{net("1", "demo")}, local: []Local{{ID: "1", UUID: "u"}}},
			states: "u=present"},
		"the engine has a second one of its name": {
			facts: facts{networks: []engine.Network{net("1", "demo"), net("2", "demo")}, records: []directory.Network{rec("u", "demo")},
				local: []Local{{ID: "2", UUID: "u"}}},
			states: "u=present"},
		"two of the cluster's on this host": {
			facts: facts{networks: []engine.Network{net("1", "demo"), net("2", "demo")}, records: []directory.Network{rec("u", "demo"), rec("v", "", elsewhere)},
				local: []Local{{ID: "1", UUID: "u"}, {ID: "2", UUID: "v"}}},
			todo: "replace u 2", states: "u=present v=removed"},
		"two of the cluster's on this host, and the loser has a container": {
			facts: facts{networks: []engine.Network{net("1", "demo"), net("2", "demo")}, records: []directory.Network{rec("u", "demo"), rec("v", "", elsewhere)},
				local: []Local{{ID: "1", UUID: "u"}, {ID: "2", UUID: "v", Endpoints: 1}}},
			states: "u=present v=conflict"},
		"the loser is alike": {
			facts: facts{networks: []engine.Network{net("1", "demo")}, records: []directory.Network{rec("u", "demo"), rec("v", "")},
				local: []Local{{ID: "1", UUID: "v"}}},
			todo: "adopt u 1", states: "u=creating v=present"},
		"the loser is alike, and has a container": {
			facts: facts{networks: []engine.Network{net("1", "demo")}, records: []directory.Network{rec("u", "demo"), rec("v", "")},
				local: []Local{{ID: "1", UUID: "v", Endpoints: 1}}},
			todo: "adopt u 1", states: "u=creating v=present"},
		"the loser differs": {
			facts: facts{networks: []engine.Network{net("1", "demo")}, records: []directory.Network{rec("u", "demo"), rec("v", "", elsewhere)},
				local: []Local{{ID: "1", UUID: "v"}}},
			todo: "replace u 1", states: "u=creating v=removed"},
		"the loser differs, and has a container": {
			facts: facts{networks: []engine.Network{net("1", "demo")}, records: []directory.Network{rec("u", "demo"), rec("v", "", elsewhere)},
				local: []Local{{ID: "1", UUID: "v", Endpoints: 1}}},
			states: "u=conflict v=conflict"},
		"the loser differs, and nobody has described the winner": {
			facts: facts{networks: []engine.Network{net("1", "demo")}, records: []directory.Network{rec("u", "demo", undescribed), rec("v", "", elsewhere)},
				local: []Local{{ID: "1", UUID: "v"}}},
			states: "u=conflict v=conflict"},
		"a user who removed it here makes it again": {
			facts: facts{networks: []engine.Network{net("1", "demo")}, records: []directory.Network{rec("u", "demo"), rec("v", "", elsewhere)},
				local: []Local{{ID: "1", UUID: "v"}}, absent: map[string]bool{"u": true}},
			todo: "replace u 1", states: "u=creating v=removed"},
		"removed everywhere": {
			facts: facts{networks: []engine.Network{net("1", "demo")}, records: []directory.Network{rec("u", "demo", removed)}, local: []Local{{ID: "1", UUID: "u", Endpoints: 2}}},
			todo:  "take down u 1", states: "u=removed"},
		"removed everywhere, and made again": {
			facts: facts{networks: []engine.Network{net("1", "demo")}, records: []directory.Network{rec("u", "demo", removed), rec("v", "demo")}, local: []Local{{ID: "1", UUID: "u"}}},
			todo:  "take down u 1", states: "u=removed v=conflict"},
		"removed everywhere, and never here": {
			facts: facts{records: []directory.Network{rec("u", "demo", removed)}}, states: "u=removed"},
		"removed, and the loser waits for the name": {
			facts: facts{networks: []engine.Network{net("1", "demo")}, records: []directory.Network{rec("u", "demo", removed), rec("v", "")}, local: []Local{{ID: "1", UUID: "v"}}},
			todo:  "describe v 1", states: "u=removed v=present"},
	} {
		t.Run(name, func(t *testing.T) {
			out := plan(c.facts)
			var todo, states []string
			for _, a := range out.todo {
				todo = append(todo, fmt.Sprintf("%s %s %s", a.verb, a.record.UUID, a.local.ID))
			}
			for uuid, s := range out.states {
				states = append(states, fmt.Sprintf("%s=%s", uuid, s.State))
			}
			slices.Sort(states)
			if got := strings.Join(todo, "; "); got != c.todo {
				t.Errorf("to do: %q instead of %q", got, c.todo)
			}
			if got := strings.Join(states, " "); got != c.states {
				t.Errorf("states: %q instead of %q", got, c.states)
			}
			if got := strings.Join(out.forget, " "); got != c.forget {
				t.Errorf("forget: %q instead of %q", got, c.forget)
			}
		})
	}
}

// TestSpec: what one engine lists, another one is told, but for the drivers' names.
func TestSpec(t *testing.T) {
	off := false
	in := engine.Network{ID: "1", Name: "demo", Driver: "weft:v1", Labels: map[string]string{"a": "b"}, Internal: true, Attachable: true, EnableIPv4: &off, EnableIPv6: true,
		Options: map[string]string{"mode": "overlay", "net": "other"},
		IPAM: engine.IPAM{Driver: "weft:v1", Options: map[string]string{"domain": "x", "net": "other"}, Config: []engine.IPAMConfig{
			{Subnet: "fd00::/64", IPRange: "fd00::/80", Gateway: "fd00::1/64", AuxAddresses: map[string]string{"r": "fd00::2"}}}}}
	text, err := describe(in)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "weft") {
		t.Errorf("%s names a driver", text)
	}
	out, err := network("demo", text, "weft:latest")
	if err != nil {
		t.Fatal(err)
	}
	want := in
	want.ID, want.Driver, want.IPAM.Driver = "", "weft:latest", "weft:latest"
	want.Options = map[string]string{"mode": "overlay", "net": "demo"}
	want.IPAM.Options = map[string]string{"domain": "x"}
	want.IPAM.Config = []engine.IPAMConfig{{Subnet: "fd00::/64", IPRange: "fd00::/80", Gateway: "fd00::1", AuxAddresses: map[string]string{"r": "fd00::2"}}}
	if fmt.Sprintf("%+v", out) != strings.Replace(fmt.Sprintf("%+v", want), fmt.Sprint(want.EnableIPv4), fmt.Sprint(out.EnableIPv4), 1) || *out.EnableIPv4 {
		t.Errorf("%+v instead of %+v", out, want)
	}
	for _, bad := range []string{`{"v":2}`, `{`, ``, `{"v":1,"labels":7}`} {
		if _, err := network("demo", []byte(bad), "weft:latest"); err == nil || !strings.Contains(err.Error(), "demo") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

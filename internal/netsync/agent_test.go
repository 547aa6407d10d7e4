package netsync_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/directory/directorytest"
	"github.com/weft-net/weft/internal/engine"
	"github.com/weft-net/weft/internal/netsync"
	"github.com/weft-net/weft/internal/store"
)

// host is a host with an engine and a driver that are played.
type host struct {
	*directorytest.Host
	t     *testing.T
	name  string
	agent *netsync.Agent
	*machine
}

// machine is what outlives a run of weft: the engine, and the driver's journal.
type machine struct {
	mu       sync.Mutex
	dir      string
	last     int
	networks map[string]engine.Network // the engine's, by id
	local    map[string]*local         // the driver's, by the engine's id
	absent   map[string]bool
	unmarked map[string]int
	broken   error // what the engine answers
	refuses  error // what it says to a creation
	creates  int
	making   map[string]bool // names of networks that are being made
	twice    bool            // the engine may make two of one name at once, as 20.10 does
	ahead    time.Duration   // of the agent's clock
}

type local struct {
	uuid       string
	listed     string
	net        directory.Network
	containers []string
}

func newMachine(t *testing.T) *machine {
	return &machine{dir: t.TempDir(), networks: map[string]engine.Network{"own": {ID: "own", Name: "none"}}, local: map[string]*local{}, absent: map[string]bool{}, unmarked: map[string]int{}, making: map[string]bool{}}
}

// start runs weft on a machine.
func start(t *testing.T, name string, s cluster.Store, m *machine) *host {
	t.Helper()
	h := &host{t: t, name: name, machine: m}
	h.Host = directorytest.New(t, directorytest.Config{Name: name, Store: s, Dir: m.dir,
		Address:  func() netip.Addr { return netip.MustParseAddr("192.0.2." + name[1:]) },
		OnMember: func() { h.agent.Wake() }, OnChange: func(string) { h.agent.Wake() }})
	h.agent = netsync.New(netsync.Config{Engine: fakeEngine{h}, Directory: h, Host: h, Ready: h.Cluster.Problem,
		Now: func() time.Time {
			m.mu.Lock()
			defer m.mu.Unlock()
			return time.Now().Add(m.ahead)
		},
		Driver: func(context.Context) (string, error) { return "weft:" + name, nil }})
	for _, l := range m.local {
		h.Attend(l.net)
	}
	h.Start(h.agent.Run)
	h.until("ready", func() bool { return h.agent.Problem() == "" })
	return h
}

// pass lets time pass for the agent.
func (h *host) pass(d time.Duration) {
	h.mu.Lock()
	h.ahead += d
	h.mu.Unlock()
	h.agent.Wake()
}

func (h *host) until(what string, ok func() bool) {
	h.t.Helper()
	h.Until(what, ok, h.states)
}

// states are the networks as the agent shows them.
func (h *host) states() string {
	var out []string
	for _, v := range h.agent.Networks() {
		out = append(out, strings.TrimSuffix(fmt.Sprintf("%s %s: %s", v.Name, v.State, v.Why), ": "))
	}
	return strings.Join(out, "; ")
}

// is waits for the state of the network of a name.
func (h *host) is(name string, want netsync.State) {
	h.t.Helper()
	h.until(name+" is "+string(want), func() bool {
		return slices.ContainsFunc(h.agent.Networks(), func(v netsync.View) bool { return v.Name == name && v.State == want })
	})
}

// user is a network as a user creates it.
func user(name, subnet string) engine.Network {
	n := engine.Network{Name: name, Driver: "weft:latest", Scope: "local", Labels: map[string]string{"com.docker.compose.network": name},
		Options: map[string]string{"mode": "overlay"}, IPAM: engine.IPAM{Driver: "weft:latest"}}
	if subnet != "" {
		n.IPAM.Config = []engine.IPAMConfig{{Subnet: subnet}}
	}
	return n
}

func (h *host) create(n engine.Network) string {
	h.t.Helper()
	id, err := h.CreateNetwork(h.t.Context(), n)
	if err != nil {
		h.t.Fatal(err)
	}
	return id
}

// dockerRemove is `docker network rm`.
func (h *host) dockerRemove(name string) {
	h.t.Helper()
	n := h.named(name)
	if n == nil {
		h.t.Fatalf("%s has no %s", h.name, name)
	}
	if err := h.RemoveNetwork(h.t.Context(), n.ID); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) named(name string) *engine.Network {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range h.networks {
		if n.Name == name {
			return &n
		}
	}
	return nil
}

// uuid is the identity of the network of a name.
func (h *host) uuid(name string) string {
	n := h.named(name)
	h.mu.Lock()
	defer h.mu.Unlock()
	if n == nil || h.local[n.ID] == nil {
		return ""
	}
	return h.local[n.ID].uuid
}

func (h *host) connect(id string, containers ...string) {
	h.mu.Lock()
	h.local[id].containers = containers
	h.mu.Unlock()
	h.agent.Wake()
}

// fakeEngine resolves that engine and directory have a method of one name.
type fakeEngine struct{ *host }

func (e fakeEngine) Networks(context.Context) ([]engine.Network, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Collect(maps.Values(e.networks)), e.broken
}

func (h *host) Connected(_ context.Context, id string) ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.local[id]; l != nil {
		return slices.Clone(l.containers), h.broken
	}
	return nil, h.broken
}

func (h *host) Disconnect(_ context.Context, id, container string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.local[id]; l != nil {
		l.containers = slices.DeleteFunc(l.containers, func(c string) bool { return c == container })
	}
	return h.broken
}

// CreateNetwork plays the engine, and the driver that it asks.
func (h *host) CreateNetwork(ctx context.Context, n engine.Network) (string, error) {
	h.mu.Lock()
	h.creates++
	err := errors.Join(h.broken, h.refuses)
	if err == nil && !h.twice {
		if h.making[n.Name] {
			err = fmt.Errorf("%w: network with name %s already exists", engine.ErrRefused, n.Name)
		} else {
			h.making[n.Name] = true
			defer func() {
				h.mu.Lock()
				delete(h.making, n.Name)
				h.mu.Unlock()
			}()
		}
	}
	for _, other := range h.networks {
		if other.Name == n.Name {
			err = fmt.Errorf("%w: network with name %s already exists", engine.ErrRefused, n.Name)
		}
	}
	h.last++
	n.ID = fmt.Sprintf("%s-%d", h.name, h.last)
	h.mu.Unlock()
	if err != nil {
		return "", err
	}
	if len(n.IPAM.Config) == 0 {
		n.IPAM.Config = []engine.IPAMConfig{{Subnet: fmt.Sprintf("10.%s.%d.0/24", h.name[1:], h.last)}}
	}
	want := directory.Network{UUID: cluster.NewID(), Name: n.Options["net"], Mode: "overlay", Subnets: []netip.Prefix{netip.MustParsePrefix(n.IPAM.Config[0].Subnet)},
		Options: map[string]string{"mtu": n.Options["mtu"]}}
	var r directory.Network
	have, ok := h.Named(want.Name)
	switch {
	case !ok || want.Name == "":
		r, err = h.Found(ctx, want, true, nil)
	case !have.Agrees(want):
		err = fmt.Errorf("%w: the cluster has another network %s", engine.ErrRefused, want.Name)
	default:
		r, err = h.Join(ctx, have.UUID)
	}
	if err != nil {
		return "", err
	}
	h.Attend(r)
	h.mu.Lock()
	delete(h.absent, r.UUID)
	h.local[n.ID] = &local{uuid: r.UUID, net: r}
	h.networks[n.ID] = n
	h.mu.Unlock()
	h.agent.Wake()
	return n.ID, nil
}

// RemoveNetwork plays the engine, and the driver that it asks.
func (h *host) RemoveNetwork(_ context.Context, id string) error {
	h.mu.Lock()
	l := h.local[id]
	err := h.broken
	if l != nil && len(l.containers) > 0 {
		err = fmt.Errorf("%w: network has active endpoints", engine.ErrRefused)
	}
	if err == nil {
		delete(h.networks, id)
		delete(h.local, id)
		if l != nil && h.unmarked[l.uuid] == 0 {
			h.absent[l.uuid] = true
		}
	}
	h.mu.Unlock()
	if err == nil && l != nil {
		h.Forsake(l.uuid)
	}
	h.agent.Wake()
	return err
}

func (h *host) Shared() []netsync.Local {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []netsync.Local
	for id, l := range h.local {
		out = append(out, netsync.Local{ID: id, UUID: l.uuid, Endpoints: len(l.containers), Listed: l.listed})
	}
	return out
}

func (h *host) Absent() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.absent))
}

func (h *host) ForgetAbsent(_ context.Context, uuids ...string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, uuid := range uuids {
		delete(h.absent, uuid)
	}
	return nil
}

func (h *host) Unmarked(uuid string) func() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unmarked[uuid]++
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.unmarked[uuid]--
	}
}

func (h *host) Rebind(_ context.Context, id string, to directory.Network) error {
	h.mu.Lock()
	old := h.local[id].uuid
	h.local[id].uuid, h.local[id].net = to.UUID, to
	delete(h.absent, to.UUID)
	h.mu.Unlock()
	h.Attend(to)
	h.Forsake(old)
	return nil
}

func (h *host) NoteListed(_ context.Context, id, state string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.local[id]; l != nil {
		l.listed = state
	}
	return nil
}

func (h *host) Drop(_ context.Context, id string, byUser bool) error {
	h.mu.Lock()
	l := h.local[id]
	delete(h.local, id)
	if byUser {
		h.absent[l.uuid] = true
	}
	h.mu.Unlock()
	h.Forsake(l.uuid)
	return nil
}

// records are the keys of the store, without those of hosts.
func records(t *testing.T, s *store.Fake) []string {
	t.Helper()
	var out []string
	for _, prefix := range []string{"net/", "name/", "vni/", "ep/"} {
		all, err := s.Read(t.Context(), prefix)
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range all.KVs {
			out = append(out, kv.Key)
		}
	}
	return out
}

// three starts three hosts on a store.
func three(t *testing.T) (*store.Fake, *host, *host, *host) {
	t.Helper()
	fake := store.NewFake()
	var out []*host
	for _, name := range []string{"h1", "h2", "h3"} {
		out = append(out, start(t, name, fake.Peer(), newMachine(t)))
	}
	return fake, out[0], out[1], out[2]
}

// TestAppears: with all that it is, and under each host's own name of the driver.
func TestAppears(t *testing.T) {
	_, a, b, c := three(t)
	n := user("demo", "10.50.0.0/24")
	n.Attachable, n.EnableIPv6, n.IPAM.Options = true, true, map[string]string{"domain": "x"}
	n.IPAM.Config[0].IPRange, n.IPAM.Config[0].Gateway, n.IPAM.Config[0].AuxAddresses = "10.50.0.0/25", "10.50.0.9", map[string]string{"r": "10.50.0.8"}
	a.create(n)
	for _, h := range []*host{b, c} {
		h.is("demo", netsync.Present)
		got := h.named("demo")
		if got.Driver != "weft:"+h.name || got.IPAM.Driver != got.Driver {
			t.Errorf("%s: driver %s %s", h.name, got.Driver, got.IPAM.Driver)
		}
		want := n
		want.ID, want.Driver, want.IPAM.Driver, want.Scope = got.ID, got.Driver, got.Driver, ""
		want.Options = maps.Clone(n.Options)
		want.Options["net"] = "demo"
		if fmt.Sprintf("%+v", *got) != fmt.Sprintf("%+v", want) {
			t.Errorf("%s has\n%+v instead of\n%+v", h.name, *got, want)
		}
		if h.uuid("demo") != a.uuid("demo") {
			t.Errorf("%s has another network", h.name)
		}
	}
}

// TestTogether: two hosts make a network of one name at once.
func TestTogether(t *testing.T) {
	for name, c := range map[string]struct {
		one, two  engine.Network
		container bool
		twice     bool
	}{
		"equal":                              {user("demo", "10.50.0.0/24"), user("demo", "10.50.0.0/24"), false, false},
		"equal, with containers":             {user("demo", "10.50.0.0/24"), user("demo", "10.50.0.0/24"), true, false},
		"each with a subnet of weft's":       {user("demo", ""), user("demo", ""), false, false},
		"on engines that make two of a name": {user("demo", ""), user("demo", ""), false, true},
		"other options":                      {user("demo", "10.50.0.0/24"), engine.Network{Name: "demo", Options: map[string]string{"mtu": "1300"}, IPAM: user("", "10.50.0.0/24").IPAM}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			_, a, b, other := three(t)
			var wg sync.WaitGroup
			for h, n := range map[*host]engine.Network{a: c.one, b: c.two} {
				h.mu.Lock()
				h.twice = c.twice
				h.mu.Unlock()
				wg.Go(func() {
					id, err := h.CreateNetwork(t.Context(), n)
					if errors.Is(err, engine.ErrRefused) { // the agent was faster than the user
						h.until("it is there", func() bool { return h.uuid("demo") != "" })
						id = h.named("demo").ID
					} else if err != nil {
						t.Error(err)
						return
					}
					if c.container {
						h.connect(id, "c")
					}
				})
			}
			wg.Wait()
			for _, h := range []*host{a, b, other} {
				h.until("one network of the cluster, here as well", func() bool {
					all := h.agent.Networks()
					return len(all) == 1 && all[0].State == netsync.Present && len(all[0].Hosts) == 3 && h.uuid("demo") == all[0].UUID && len(h.Shared()) == 1
				})
			}
			if c.container && (len(a.Shared()) != 1 || a.Shared()[0].Endpoints != 1 || b.Shared()[0].Endpoints != 1) {
				t.Errorf("a container lost its network: %v %v", a.Shared(), b.Shared())
			}
			if len(a.Absent())+len(b.Absent()) > 0 {
				t.Errorf("marks of absence: %v %v", a.Absent(), b.Absent())
			}
		})
	}
}

// TestConflict: a network that differs and has a container stays until that is gone.
func TestConflict(t *testing.T) {
	_, a, b, c := three(t)
	a.mu.Lock()
	a.broken = errors.New("away")
	a.mu.Unlock()
	a.until("it waits for its engine", func() bool { a.agent.Wake(); return strings.Contains(a.agent.Problem(), "-o net=NAME") })
	// Its network is not told before another host has the name.
	a.mu.Lock()
	a.broken = nil
	a.mu.Unlock()
	b.create(user("demo", "10.50.0.0/24"))
	b.is("demo", netsync.Present)
	c.is("demo", netsync.Present)
	a.is("demo", netsync.Present)
	a.dockerRemove("demo")
	a.is("demo", netsync.Absent)
	// The user makes another one by this name, and something is on it at once.
	a.mu.Lock()
	a.broken = errors.New("away")
	a.mu.Unlock()
	a.until("away", func() bool { a.agent.Wake(); return a.agent.Problem() != "" })
	a.mu.Lock()
	a.broken = nil
	a.mu.Unlock()
	id := func() string {
		n, err := a.Found(t.Context(), directory.Network{UUID: cluster.NewID(), Mode: "overlay", Subnets: []netip.Prefix{netip.MustParsePrefix("10.60.0.0/24")}}, true, nil)
		if err != nil {
			t.Fatal(err)
		}
		a.Attend(n)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.networks["x"] = engine.Network{ID: "x", Name: "demo", Scope: "local"}
		a.local["x"] = &local{uuid: n.UUID, net: n, containers: []string{"c"}}
		return "x"
	}()
	a.agent.Wake()
	a.is("demo", netsync.Conflict)
	if n := a.named("demo"); n.ID != id {
		t.Fatal("the network of a container was replaced")
	}
	a.connect(id)
	a.is("demo", netsync.Present)
	a.until("it is the cluster's", func() bool { return a.uuid("demo") == b.uuid("demo") })
}

// TestAbsent: what a user removed stays away over restarts, until it is gone or made again.
func TestAbsent(t *testing.T) {
	fake, a, b, c := three(t)
	a.create(user("demo", "10.50.0.0/24"))
	c.is("demo", netsync.Present)
	c.dockerRemove("demo")
	c.is("demo", netsync.Absent)
	c.Stop()
	c = start(t, "h3", fake.Peer(), c.machine)
	c.is("demo", netsync.Absent)
	b.is("demo", netsync.Present)
	if c.named("demo") != nil {
		t.Fatal("it came back")
	}
	c.create(user("demo", ""))
	c.is("demo", netsync.Present)
	c.until("it is the cluster's", func() bool { return c.uuid("demo") == a.uuid("demo") && len(c.Absent()) == 0 })
	c.dockerRemove("demo")
	c.is("demo", netsync.Absent)
	a.dockerRemove("demo")
	b.dockerRemove("demo")
	for _, h := range []*host{a, b, c} {
		h.until("nothing is known of it", func() bool { return len(h.agent.Networks()) == 0 })
		if len(h.Absent()) != 1 {
			t.Errorf("%s: marks of absence: %v", h.name, h.Absent())
		}
		h.agent.Wake()
		h.until("no mark is left", func() bool {
			h.pass(time.Minute)
			return len(h.Absent()) == 0
		})
	}
	if keys := records(t, fake); len(keys) > 0 {
		t.Errorf("left in the store: %v", keys)
	}
}

// TestRemoved: a host that was off takes down what was removed meanwhile, containers or not.
func TestRemoved(t *testing.T) {
	fake, a, b, c := three(t)
	a.create(user("demo", "10.50.0.0/24"))
	for _, h := range []*host{b, c} {
		h.is("demo", netsync.Present)
	}
	uuid := a.uuid("demo")
	c.Stop()
	if err := a.Remove(t.Context(), uuid); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*host{a, b} {
		h.until("it is down", func() bool { return h.named("demo") == nil })
	}
	a.create(user("demo", "10.70.0.0/24"))
	b.is("demo", netsync.Present)
	for _, l := range c.local {
		l.containers = []string{"one", "two"}
	}
	c = start(t, "h3", fake.Peer(), c.machine)
	c.until("it has the new one only", func() bool { return c.uuid("demo") == a.uuid("demo") && len(c.Shared()) == 1 })
	a.until("the old one is gone", func() bool { _, ok := a.Network(uuid); return !ok })
	if len(c.Absent()) > 0 {
		t.Errorf("marks of absence: %v", c.Absent())
	}
}

// TestForeign: the engine's own network of a name is not touched.
func TestForeign(t *testing.T) {
	_, a, b, _ := three(t)
	b.mu.Lock()
	b.networks["f"] = engine.Network{ID: "f", Name: "demo", Driver: "bridge", Scope: "local"}
	b.mu.Unlock()
	a.create(user("demo", "10.50.0.0/24"))
	b.is("demo", netsync.Conflict)
	if b.named("demo").ID != "f" || b.creates > 0 {
		t.Fatal("the engine was asked for it")
	}
	b.mu.Lock()
	delete(b.networks, "f")
	b.mu.Unlock()
	b.agent.Wake()
	b.is("demo", netsync.Present)
}

// TestFailure: a creation that fails leaves this host out, and is tried again.
func TestFailure(t *testing.T) {
	_, a, b, c := three(t)
	b.mu.Lock()
	b.refuses = fmt.Errorf("%w: the subnet overlaps eth0", engine.ErrRefused)
	b.mu.Unlock()
	a.create(user("demo", "10.50.0.0/24"))
	c.is("demo", netsync.Present)
	b.until("the reason is shown", func() bool {
		return strings.Contains(b.states(), "demo creating: the engine refused: the subnet overlaps eth0")
	})
	a.until("b is no host of it", func() bool { n, _ := a.Network(a.uuid("demo")); return len(n.Hosts) == 2 })
	b.mu.Lock()
	b.refuses = nil
	b.mu.Unlock()
	b.is("demo", netsync.Present)
}

// TestEngineLost: an engine with an empty state gets the network anew.
func TestEngineLost(t *testing.T) {
	fake, a, b, _ := three(t)
	a.create(user("demo", "10.50.0.0/24"))
	b.is("demo", netsync.Present)
	b.Stop()
	clear(b.networks)
	b.networks["new"] = engine.Network{ID: "new", Name: "none"}
	b = start(t, "h2", fake.Peer(), b.machine)
	b.is("demo", netsync.Present)
	if b.named("demo") != nil {
		t.Fatal("what the engine lacks for a moment was made twice")
	}
	b.pass(time.Minute)
	b.until("it is back", func() bool { return b.uuid("demo") == a.uuid("demo") && len(b.Shared()) == 1 && len(b.Absent()) == 0 })
}

// TestRemovedUnseen: what a user removed while weft did not run stays away as well.
func TestRemovedUnseen(t *testing.T) {
	fake, a, b, _ := three(t)
	a.create(user("demo", "10.50.0.0/24"))
	b.is("demo", netsync.Present)
	b.until("it was seen", func() bool { return len(b.Shared()) == 1 && b.Shared()[0].Listed == "own" })
	b.Stop()
	for id := range b.local {
		delete(b.networks, id)
	}
	b = start(t, "h2", fake.Peer(), b.machine)
	b.is("demo", netsync.Present)
	b.pass(time.Minute)
	b.is("demo", netsync.Absent)
	if len(b.Shared()) > 0 || b.named("demo") != nil {
		t.Errorf("it is there: %v", b.Shared())
	}
}

// TestWiped: the hosts tell a store that lost everything, names and descriptions too,
// and what a user removed stays away.
func TestWiped(t *testing.T) {
	fake, a, b, c := three(t)
	a.create(user("demo", "10.50.0.0/24"))
	b.is("demo", netsync.Present)
	c.is("demo", netsync.Present)
	c.dockerRemove("demo")
	c.is("demo", netsync.Absent)
	fake.Wipe()
	for _, h := range []*host{a, b, c} {
		h.until("frozen", func() bool { return h.Cluster.Ready() != nil })
		h.until("it knows", func() bool { h.agent.Wake(); return h.agent.Problem() != "" })
	}
	if err := a.Cluster.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*host{a, b, c} {
		h.until("recovered", func() bool {
			for _, other := range []*host{a, b, c} {
				if epoch := other.Cluster.Pass().Epoch; epoch > 0 {
					other.Cluster.Told(epoch) // no pool has anything to tell
				}
			}
			return h.Cluster.Ready() == nil
		})
	}
	for _, h := range []*host{a, b, c} {
		h.until("told again", func() bool { n, ok := h.Named("demo"); return ok && len(n.Spec) > 0 && len(n.Hosts) == 2 })
	}
	c.is("demo", netsync.Absent)
	if c.creates > 0 && c.named("demo") != nil {
		t.Fatal("it came back")
	}
}

// TestFrozen: while the store is away or frozen nothing is made or removed.
func TestFrozen(t *testing.T) {
	fake := store.NewFake()
	s := fake.Peer()
	a, b := start(t, "h1", fake.Peer(), newMachine(t)), start(t, "h2", s, newMachine(t))
	s.SetDown(true)
	b.until("it knows that the store is away", func() bool { b.agent.Wake(); return b.agent.Problem() != "" })
	a.create(user("demo", "10.50.0.0/24"))
	a.is("demo", netsync.Present)
	if b.creates > 0 {
		t.Fatal("made without the store")
	}
	s.SetDown(false)
	b.is("demo", netsync.Present)
}

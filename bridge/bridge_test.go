package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/bridge"
	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/firewall"
	"github.com/weft-net/weft/internal/hostport"
	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/internal/kernel"
)

// ports hands out host ports without sockets.
type ports struct {
	held map[string][]hostport.Mapping
	next uint16
}

func (p *ports) Reserve(req hostport.Request) ([]hostport.Mapping, error) {
	port := req.First
	if port == 0 {
		p.next++
		port = 40000 + p.next
	}
	var out []hostport.Mapping
	for _, w := range req.Want {
		at := netip.AddrPortFrom(w.Host, port)
		for owner, list := range p.held {
			for _, m := range list {
				if m.Host == at {
					return nil, fmt.Errorf("%s: %w: by weft endpoint %s", at, hostport.ErrTaken, owner)
				}
			}
		}
		out = append(out, hostport.Mapping{Host: at, Container: w.Container})
	}
	p.held[req.Owner] = append(p.held[req.Owner], out...)
	return out, nil
}

func (p *ports) Release(owner string) { delete(p.held, owner) }

// house is a driver with bridge networks on fakes.
type house struct {
	testing.TB
	*driver.Driver
	path   string
	kernel *kernel.Fake
	fw     *firewall.Fake
	ports  *ports
	later  *kernel.Later
	direct bool
	blind  bool
	up     bool   // the engine answers
	join   func() // what happens during a Join, after its link was made
	j      *journal.Journal
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{TB: t, path: filepath.Join(t.TempDir(), "journal.db"), kernel: kernel.NewFake(), fw: &firewall.Fake{},
		ports: &ports{held: map[string][]hostport.Mapping{}}}
	h.kernel.AddDevice(kernel.Link{Name: "eth0", Up: true}, netip.MustParsePrefix("192.0.2.10/24"))
	h.kernel.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("192.0.2.1"), "eth0")
	h.later = kernel.NewLater(h.kernel, 0, nil)
	h.start()
	t.Cleanup(func() {
		if err := h.j.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// start makes the driver from the journal, as after a restart of weft.
func (h *house) start() {
	h.Helper()
	var err error
	if h.j != nil {
		if err := h.j.Close(); err != nil {
			h.Fatal(err)
		}
		h.ports.held = map[string][]hostport.Mapping{}
	}
	if h.j, err = journal.Open(h.path); err != nil {
		h.Fatal(err)
	}
	kind := bridge.New(bridge.Config{Kernel: h.kernel, Firewall: h.fw, Ports: h.ports, Later: h.later, Seed: "seed",
		DirectSafe: func() (bool, string) { return h.direct, "the test says so" }})
	h.Driver, err = driver.New(driver.Config{Journal: h.j, Kernel: h.kernel, Firewall: h.fw, Kinds: map[string]driver.Kind{"bridge": slow{kind, h}}, Blind: func() bool { return h.blind }, EngineUp: func() bool { return h.up }})
	if err == nil {
		err = h.Restore(h.Context())
	}
	if err != nil {
		h.Fatal(err)
	}
}

// slow is a kind during whose Join something happens.
type slow struct {
	*bridge.Kind
	h *house
}

func (s slow) Join(ctx context.Context, n driver.Network, ep driver.Endpoint) (driver.Endpoint, driver.JoinAnswer, error) {
	out, answer, err := s.Kind.Join(ctx, n, ep)
	if s.h.join != nil {
		s.h.join()
	}
	return out, answer, err
}

func (h *house) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// id makes an engine's id from a letter.
func id(letter string) string { return strings.Repeat(letter, 64) }

func network(letter, subnet string, options map[string]string) driver.Network {
	p := netip.MustParsePrefix(subnet)
	n := driver.Network{ID: id(letter), Options: options}
	s := driver.Subnet{Pool: p, Gateway: p.Addr().Next()}
	if p.Addr().Is4() {
		n.IPv4 = []driver.Subnet{s}
	} else {
		n.IPv6 = []driver.Subnet{s}
	}
	return n
}

func endpoint(letter, net, addr string) driver.Endpoint {
	return driver.Endpoint{ID: id(letter), Network: id(net), IPv4: netip.MustParsePrefix(addr)}
}

func (h *house) settle() {
	h.Helper()
	ctx, cancel := context.WithCancel(h.Context())
	cancel()
	h.must(h.later.Run(ctx))
}

// TestLife is a network and a container from the first call to the last.
func TestLife(t *testing.T) {
	h := newHouse(t)
	empty := h.kernel.Dump()
	ctx := t.Context()
	h.must(h.CreateNetwork(ctx, network("a", "10.1.0.0/24", map[string]string{"publish": "native"})))
	ep, err := h.CreateEndpoint(ctx, endpoint("b", "a", "10.1.0.2/24"))
	h.must(err)
	if ep.MAC == "" {
		t.Error("no MAC address")
	}
	answer, err := h.Join(ctx, id("a"), id("b"), "/run/netns/x", []driver.Binding{{Proto: 6, Port: 80, HostPort: 8080}})
	h.must(err)
	if answer.SrcName != "wp-bbbbbbbbbbbb" || answer.DstPrefix != "eth" || answer.Gateway4 != netip.MustParseAddr("10.1.0.1") {
		t.Errorf("Join: %+v", answer)
	}
	again, err := h.Join(ctx, id("a"), id("b"), "/run/netns/x", []driver.Binding{{Proto: 6, Port: 80, HostPort: 8080}})
	if err != nil || fmt.Sprint(again) != fmt.Sprint(answer) {
		t.Errorf("second Join: %+v, %v", again, err)
	}
	h.must(h.Publish(ctx, id("a"), id("b"), []driver.Binding{{Proto: 6, Port: 80, HostPort: 8080}}))
	if d := h.fw.Dump(); !strings.Contains(d, "8080") {
		t.Errorf("the port is not in the firewall:\n%s", d)
	}
	h.must(h.Unpublish(ctx, id("a"), id("b")))
	h.must(h.Leave(ctx, id("a"), id("b")))
	h.must(h.DeleteEndpoint(ctx, id("a"), id("b")))
	h.must(h.DeleteNetwork(ctx, id("a")))
	h.settle()
	if got := h.kernel.Dump(); got != empty {
		t.Errorf("links stay behind:\n%s", got)
	}
	if d := h.fw.Dump(); strings.Contains(d, "8080") || strings.Contains(d, "wf-") {
		t.Errorf("rules stay behind:\n%s", d)
	}
	if len(h.Networks())+len(h.Endpoints("")) != 0 {
		t.Error("records stay behind")
	}
}

// TestTeardownOfTheUnknown succeeds, as often as the engine likes.
func TestTeardownOfTheUnknown(t *testing.T) {
	h := newHouse(t)
	for range 2 {
		h.must(h.Unpublish(t.Context(), id("a"), id("b")))
		h.must(h.Leave(t.Context(), id("a"), id("b")))
		h.must(h.DeleteEndpoint(t.Context(), id("a"), id("b")))
		h.must(h.DeleteNetwork(t.Context(), id("a")))
	}
}

// TestRoutesToContainers that the host has for other networks say nothing about a subnet.
func TestRoutesToContainers(t *testing.T) {
	h := newHouse(t)
	peer := kernel.Peer{Addr: netip.MustParseAddr("10.5.0.2"), Source: netip.MustParseAddr("192.0.2.10")}
	h.must(h.kernel.EnsureShim(kernel.Shim{Child: kernel.Child{Kind: kernel.Macvlan, Name: "wh-1", Parent: "eth0", Mode: "bridge"}, Peers: []kernel.Peer{peer}}))
	h.must(h.CreateNetwork(t.Context(), network("a", "10.5.0.0/24", nil)))
}

// TestRefusals leave nothing behind.
func TestRefusals(t *testing.T) {
	isolated := network("c", "10.5.0.0/24", map[string]string{"com.docker.network.bridge.gateway_mode_ipv4": "isolated"})
	twoSubnets := network("c", "10.5.0.0/24", nil)
	twoSubnets.IPv4 = append(twoSubnets.IPv4, driver.Subnet{Pool: netip.MustParsePrefix("10.6.0.0/24")})
	outside := network("c", "10.5.0.0/24", nil)
	outside.IPv4[0].Gateway = netip.MustParseAddr("10.6.0.1")
	v6 := func(o map[string]string) driver.Network { return network("c", "fd00:5::/64", o) }
	opt := func(kv ...string) driver.Network {
		o := map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			o[kv[i]] = kv[i+1]
		}
		return network("c", "10.5.0.0/24", o)
	}
	for _, c := range []struct {
		name  string
		n     driver.Network
		kind  error
		words string
	}{
		{"mode", opt("mode", "bridgy"), driver.ErrOption, "use bridge"},
		{"overlap with a network", network("c", "10.1.0.0/16", nil), driver.ErrConflict, "overlapping IPv4"},
		{"overlap with a route", network("c", "192.0.2.0/25", nil), driver.ErrConflict, "route to 192.0.2.0/24 by eth0"},
		{"gateway outside", outside, driver.ErrConflict, "10.6.0.1 is not in the subnet 10.5.0.0/24"},
		{"two subnets", twoSubnets, driver.ErrOption, "multiple subnets"},
		{"MTU", opt("com.docker.network.driver.mtu", "67"), driver.ErrOption, "invalid MTU number"},
		{"MTU text", opt("com.docker.network.driver.mtu", "big"), driver.ErrOption, "invalid MTU number"},
		{"MTU for IPv6", v6(map[string]string{"com.docker.network.driver.mtu": "1279"}), driver.ErrOption, "1280"},
		{"same bridge", opt("com.docker.network.bridge.name", "wf-aaaaaaaaaaaa"), driver.ErrConflict, "networks have same bridge name"},
		{"device is no bridge", opt("com.docker.network.bridge.name", "eth0"), driver.ErrConflict, "eth0 exists"},
		{"isolated", isolated, driver.ErrOption, "internal network"},
		{"routed by the engine", opt("com.docker.network.bridge.gateway_mode_ipv4", "routed", "publish", "docker"), driver.ErrOption, "the engine cannot"},
		{"gateway mode", opt("com.docker.network.bridge.gateway_mode_ipv4", "open"), driver.ErrOption, "nat-unprotected"},
		{"binding", opt("com.docker.network.bridge.host_binding_ipv4", "::1"), driver.ErrOption, "family"},
		{"trusted", opt("com.docker.network.bridge.trusted_host_interfaces", "eth0:"), driver.ErrOption, "device name"},
		{"prefix", opt("com.docker.network.container_iface_prefix", "thirteenbytes"), driver.ErrOption, "at most 12"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHouse(t)
			h.must(h.CreateNetwork(t.Context(), network("a", "10.1.0.0/24", nil)))
			before, rules := h.kernel.Dump(), h.fw.Dump()
			err := h.CreateNetwork(t.Context(), c.n)
			if !errors.Is(err, c.kind) || !strings.Contains(fmt.Sprint(err), c.words) {
				t.Errorf("error %v", err)
			}
			if got := h.kernel.Dump(); got != before {
				t.Errorf("links changed:\n%s", got)
			}
			if got := h.fw.Dump(); got != rules {
				t.Errorf("rules changed:\n%s", got)
			}
			if len(h.Networks()) != 1 {
				t.Error("a record was made")
			}
		})
	}
}

// TestEndpointRefusals checks addresses and driver options.
func TestEndpointRefusals(t *testing.T) {
	h := newHouse(t)
	h.must(h.CreateNetwork(t.Context(), network("a", "10.1.0.0/24", nil)))
	_, err := h.CreateEndpoint(t.Context(), endpoint("b", "a", "10.1.0.2/24"))
	h.must(err)
	named := endpoint("c", "a", "10.1.0.3/24")
	named.DriverOpts = map[string]string{"com.docker.network.endpoint.ifname": "lan0"}
	sysctl := endpoint("c", "a", "10.1.0.3/24")
	sysctl.DriverOpts = map[string]string{"com.docker.network.endpoint.sysctls": "kernel.x=1"}
	for _, c := range []struct {
		name  string
		ep    driver.Endpoint
		kind  error
		words string
	}{
		{"twice", endpoint("b", "a", "10.1.0.9/24"), driver.ErrExists, ""},
		{"taken", endpoint("c", "a", "10.1.0.2/24"), driver.ErrConflict, "already in use by endpoint bbbbbbbbbbbb"},
		{"gateway", endpoint("c", "a", "10.1.0.1/24"), driver.ErrConflict, "is the gateway"},
		{"outside", endpoint("c", "a", "10.2.0.1/24"), driver.ErrConflict, "in no subnet"},
		{"no network", endpoint("c", "z", "10.1.0.4/24"), driver.ErrNetworkUnknown, ""},
		{"interface name", named, driver.ErrOption, "the engine names"},
		{"sysctl", sysctl, driver.ErrOption, "IFNAME"},
	} {
		if _, err := h.CreateEndpoint(t.Context(), c.ep); !errors.Is(err, c.kind) || !strings.Contains(fmt.Sprint(err), c.words) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if n := len(h.Endpoints("")); n != 1 {
		t.Errorf("%d endpoints", n)
	}
}

// TestPublishByEngine: an endpoint that publishes gets no gateway, and over
// IPv6 two halves of the default route.
func TestPublishByEngine(t *testing.T) {
	h := newHouse(t)
	n := network("a", "10.1.0.0/24", nil)
	n.IPv6 = network("a", "fd00:1::/64", nil).IPv6
	h.must(h.CreateNetwork(t.Context(), n))
	ep := endpoint("b", "a", "10.1.0.2/24")
	ep.IPv6 = netip.MustParsePrefix("fd00:1::2/64")
	_, err := h.CreateEndpoint(t.Context(), ep)
	h.must(err)
	answer, err := h.Join(t.Context(), id("a"), id("b"), "/x", []driver.Binding{{Proto: 6, Port: 80}})
	h.must(err)
	if answer.Gateway4.IsValid() || answer.Gateway6.IsValid() || answer.NoGatewayService || len(answer.Routes) != 2 {
		t.Errorf("with ports: %+v", answer)
	}
	h.must(h.Leave(t.Context(), id("a"), id("b")))
	if answer, err = h.Join(t.Context(), id("a"), id("b"), "/x", nil); err != nil || !answer.Gateway4.IsValid() || !answer.Gateway6.IsValid() || len(answer.Routes) != 0 {
		t.Errorf("without ports: %+v, %v", answer, err)
	}
	h.must(h.CreateNetwork(t.Context(), network("c", "fd00:2::/64", nil)))
	_, err = h.CreateEndpoint(t.Context(), driver.Endpoint{ID: id("d"), Network: id("c"), IPv6: netip.MustParsePrefix("fd00:2::2/64")})
	h.must(err)
	if _, err = h.Join(t.Context(), id("c"), id("d"), "/x", []driver.Binding{{Proto: 6, Port: 80}}); !errors.Is(err, driver.ErrOption) {
		t.Errorf("IPv6 only: %v", err)
	}
}

// TestAttachDirect and its reasons not to.
func TestAttachDirect(t *testing.T) {
	direct := map[string]string{"attach": "direct", "publish": "native"}
	for _, c := range []struct {
		name    string
		options map[string]string
		safe    bool
		sandbox string
		wanted  []driver.Binding
		want    driver.Attach
		why     string
	}{
		{"direct", direct, true, "/ns", nil, driver.AttachDirect, ""},
		{"with native ports", direct, true, "/ns", []driver.Binding{{Proto: 6, Port: 80}}, driver.AttachDirect, ""},
		{"unsafe engine", direct, false, "/ns", nil, driver.AttachDocker, "the test says so"},
		{"no sandbox", direct, true, "/none", nil, driver.AttachDocker, "sandbox"},
		{"engine publishes", map[string]string{"attach": "direct"}, true, "/ns", []driver.Binding{{Proto: 6, Port: 80}}, driver.AttachDocker, "publish=docker"},
		{"prefix", map[string]string{"attach": "direct", "com.docker.network.container_iface_prefix": "lan"}, true, "/ns", nil, driver.AttachDocker, "names"},
		{"not wanted", nil, true, "/ns", nil, driver.AttachDocker, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHouse(t)
			h.direct = c.safe
			h.kernel.AddSandbox("/ns")
			h.must(h.CreateNetwork(t.Context(), network("a", "10.1.0.0/24", c.options)))
			_, err := h.CreateEndpoint(t.Context(), endpoint("b", "a", "10.1.0.2/24"))
			h.must(err)
			answer, err := h.Join(t.Context(), id("a"), id("b"), c.sandbox, c.wanted)
			h.must(err)
			ep := h.Endpoints("")[0]
			if ep.Attach != c.want || !strings.Contains(ep.AttachWhy, c.why) || (c.why == "") != (ep.AttachWhy == "") {
				t.Errorf("attach %q because %q", ep.Attach, ep.AttachWhy)
			}
			if (answer.SrcName == "") != (c.want == driver.AttachDirect) {
				t.Errorf("answer %+v", answer)
			}
			if c.want != driver.AttachDirect {
				return
			}
			if d := h.kernel.Dump(); !strings.Contains(d, "peer=/ns:weft0 [10.1.0.2/24]") {
				t.Errorf("no interface in the sandbox:\n%s", d)
			}
			_, err = h.Join(t.Context(), id("a"), id("b"), c.sandbox, c.wanted)
			h.must(err)
			h.must(h.Leave(t.Context(), id("a"), id("b")))
			h.settle()
			if d := h.kernel.Dump(); strings.Contains(d, "wv-") {
				t.Errorf("the link stays:\n%s", d)
			}
		})
	}
}

// TestRestart: everything is there again, ports and rules included.
func TestRestart(t *testing.T) {
	h := newHouse(t)
	h.joinedTo(map[string]string{"publish": "native"})
	h.must(h.Publish(t.Context(), id("a"), id("b"), []driver.Binding{{Proto: 17, Port: 53}}))
	links, rules, before := h.kernel.Dump(), h.fw.Dump(), fmt.Sprint(h.ports.held, h.Networks(), h.Endpoints(""))
	h.start()
	if report, err := h.Reconcile(t.Context(), driver.Full); err != nil || len(report.Repaired) > 0 {
		t.Errorf("reconcile repaired %v, %v", report.Repaired, err)
	}
	if got := h.kernel.Dump(); got != links {
		t.Errorf("links differ:\n%s", got)
	}
	if got := h.fw.Dump(); got != rules {
		t.Errorf("rules differ:\n%s\ninstead of\n%s", got, rules)
	}
	if got := fmt.Sprint(h.ports.held, h.Networks(), h.Endpoints("")); got != before {
		t.Errorf("records differ:\n%s\ninstead of\n%s", got, before)
	}
}

// TestReconcile mends what others broke and sweeps what a crash left.
func TestReconcile(t *testing.T) {
	h := newHouse(t)
	h.must(h.CreateNetwork(t.Context(), network("a", "10.1.0.0/24", nil)))
	_, err := h.CreateEndpoint(t.Context(), endpoint("b", "a", "10.1.0.2/24"))
	h.must(err)
	_, err = h.Join(t.Context(), id("a"), id("b"), "/x", nil)
	h.must(err)
	whole := h.kernel.Dump()
	for _, c := range []struct {
		name  string
		harm  func() error
		words string
	}{
		{"address", func() error {
			return h.kernel.RemoveAddrs("wf-aaaaaaaaaaaa", []netip.Prefix{netip.MustParsePrefix("10.1.0.1/24")})
		}, "had lost its address 10.1.0.1/24"},
		{"crash", func() error {
			return h.kernel.AddVeth(kernel.Veth{Host: "wv-cccccccccccc", Peer: "wp-cccccccccccc", Bridge: "wf-aaaaaaaaaaaa"})
		}, "belonged to nothing"},
		{"stray bridge", func() error { _, err := h.kernel.EnsureBridge(kernel.Bridge{Name: "wf-dddddddddddd"}); return err }, "belonged to nothing"},
	} {
		h.must(c.harm())
		report, err := h.Reconcile(t.Context(), driver.Changes)
		if err != nil || !strings.Contains(strings.Join(report.Repaired, "\n"), c.words) {
			t.Errorf("%s: %v, %v", c.name, report.Repaired, err)
		}
		if got := h.kernel.Dump(); got != whole {
			t.Errorf("%s: links differ:\n%s", c.name, got)
		}
	}
	// A link that its endpoint's removal is taking away is no repair.
	h.must(h.kernel.AddVeth(kernel.Veth{Host: "wv-cccccccccccc", Peer: "wp-cccccccccccc", Bridge: "wf-aaaaaaaaaaaa"}))
	h.must(h.kernel.Detach("wv-cccccccccccc"))
	report, err := h.Reconcile(t.Context(), driver.Changes)
	if err != nil || len(report.Repaired) > 0 || h.kernel.Dump() != whole {
		t.Errorf("doomed link: %v, %v\n%s", report.Repaired, err, h.kernel.Dump())
	}
	h.must(h.kernel.Lose("wf-aaaaaaaaaaaa"))
	if report, err := h.Reconcile(t.Context(), driver.Changes); err != nil || len(report.Repaired) == 0 {
		t.Errorf("lost bridge: %v, %v", report.Repaired, err)
	}
	if l, err := h.kernel.LinkByName("wv-bbbbbbbbbbbb"); err != nil || l.Master == 0 {
		t.Errorf("the port is not back in the bridge: %+v, %v", l, err)
	}
}

// TestConflict: an endpoint with an address of another host is off the network, however
// its link is made and whoever sets it up, until the conflict ends.
func TestConflict(t *testing.T) {
	const link = "wv-bbbbbbbbbbbb"
	taken := []driver.Conflict{{Network: id("a"), Address: netip.MustParseAddr("10.1.0.2")}}
	for _, attach := range []string{"docker", "direct"} {
		t.Run(attach, func(t *testing.T) {
			h := newHouse(t)
			h.direct = true
			h.kernel.AddSandbox("/x")
			up := func(want bool, when string) {
				t.Helper()
				if l, err := h.kernel.LinkByName(link); err != nil || l.Up != want {
					t.Errorf("%s: up %t, %v", when, l.Up, err)
				}
			}
			reconcile := func(depth driver.Depth, want bool, when string) {
				t.Helper()
				_, err := h.Reconcile(t.Context(), depth)
				h.must(err)
				up(want, when)
				if report, err := h.Reconcile(t.Context(), depth); err != nil || len(report.Repaired) > 0 {
					t.Errorf("%s: once more: %v, %v", when, report.Repaired, err)
				}
			}
			h.joinedTo(map[string]string{"attach": attach, "publish": "native"})
			whole := h.kernel.Dump()
			h.SetConflicts([]driver.Conflict{{Network: id("c"), Address: netip.MustParseAddr("10.1.0.2")}, {Network: id("a"), Address: netip.MustParseAddr("10.1.0.3")}})
			reconcile(driver.Changes, true, "another endpoint's conflict")
			h.SetConflicts(taken)
			reconcile(driver.Changes, false, "the conflict began")
			if ep := h.Endpoints("")[0]; !ep.Off {
				t.Error("it is not said to be off")
			}
			reconcile(driver.Full, false, "on the timer")
			h.must(h.kernel.EnsurePort(kernel.Veth{Host: link, Bridge: "wf-aaaaaaaaaaaa"}))
			reconcile(driver.Changes, false, "somebody set it up")
			h.must(h.Publish(t.Context(), id("a"), id("b"), []driver.Binding{{Proto: 6, Port: 80}}))
			up(false, "ports were published")
			h.must(h.Unpublish(t.Context(), id("a"), id("b")))
			h.start()
			h.SetConflicts(taken)
			reconcile(driver.Full, false, "weft was started again")
			h.SetConflicts(nil)
			reconcile(driver.Changes, true, "the conflict ended")
			if got := strings.ReplaceAll(h.kernel.Dump(), " hairpin", ""); got != whole {
				t.Errorf("links differ:\n%s\ninstead of\n%s", got, whole)
			}
			h.SetConflicts(taken)
			h.must(h.Leave(t.Context(), id("a"), id("b")))
			h.must(h.DeleteEndpoint(t.Context(), id("a"), id("b")))
			h.settle()
			_, err := h.CreateEndpoint(t.Context(), endpoint("b", "a", "10.1.0.2/24"))
			h.must(err)
			_, err = h.Join(t.Context(), id("a"), id("b"), "/x", nil)
			h.must(err)
			up(false, "it was joined in conflict")
		})
	}
}

// TestConflictDuringJoin: the conflict that begins while a link is made is not lost.
func TestConflictDuringJoin(t *testing.T) {
	h := newHouse(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	runs := func() uint64 { return h.Stats().Runs }
	end := time.Now().Add(10 * time.Second)
	h.join = func() {
		before := runs()
		h.SetConflicts([]driver.Conflict{{Network: id("a"), Address: netip.MustParseAddr("10.1.0.2")}})
		for runs() < before+1 && time.Now().Before(end) {
			time.Sleep(time.Millisecond) // Run looks, and does not find the endpoint joined
		}
	}
	go func() { done <- h.Run(ctx, driver.Hints{}) }() // without hints: only the conflict wakes it
	h.joinedTo(nil)
	down := false
	for !down && time.Now().Before(end) {
		l, err := h.kernel.LinkByName("wv-bbbbbbbbbbbb")
		h.must(err)
		down = !l.Up
		time.Sleep(time.Millisecond)
	}
	if !down {
		t.Error("the link stays up")
	}
	cancel()
	h.must(<-done)
}

// TestFailureLeavesNothing: a kernel that refuses leaves no record.
func TestFailureLeavesNothing(t *testing.T) {
	h := newHouse(t)
	broken := errors.New("no")
	h.kernel.Fail(broken)
	if err := h.CreateNetwork(t.Context(), network("a", "10.1.0.0/24", nil)); !errors.Is(err, broken) {
		t.Errorf("CreateNetwork: %v", err)
	}
	h.kernel.Fail(nil)
	if len(h.Networks()) != 0 || strings.Contains(h.fw.Dump(), "wf-") {
		t.Errorf("something stays: %v\n%s", h.Networks(), h.fw.Dump())
	}
	h.must(h.CreateNetwork(t.Context(), network("a", "10.1.0.0/24", nil)))
	_, err := h.CreateEndpoint(t.Context(), endpoint("b", "a", "10.1.0.2/24"))
	h.must(err)
	h.fw.Fail(broken)
	defer h.fw.Fail(nil)
	h.must(h.DeleteNetwork(t.Context(), id("a"))) // teardown goes on
	if len(h.Networks())+len(h.Endpoints("")) != 0 {
		t.Error("teardown stopped half way")
	}
}

// TestAdoptedBridge keeps what it had.
func TestAdoptedBridge(t *testing.T) {
	h := newHouse(t)
	h.kernel.AddDevice(kernel.Link{Name: "br7", Kind: "bridge"}, netip.MustParsePrefix("10.7.0.5/24"))
	before := h.kernel.Dump()
	n := network("a", "10.7.0.0/24", map[string]string{"com.docker.network.bridge.name": "br7"})
	h.must(h.CreateNetwork(t.Context(), n))
	if !h.Networks()[0].Adopted {
		t.Error("not adopted")
	}
	h.must(h.DeleteNetwork(t.Context(), id("a")))
	if got := h.kernel.Dump(); strings.ReplaceAll(got, "up=true", "up=false") != strings.ReplaceAll(before, "up=true", "up=false") {
		t.Errorf("the bridge changed:\n%s\ninstead of\n%s", got, before)
	}
}

// TestRepeatedCreate: the same again is success, other settings are not.
func TestRepeatedCreate(t *testing.T) {
	h := newHouse(t)
	h.must(h.CreateNetwork(t.Context(), network("a", "10.1.0.0/24", nil)))
	h.must(h.CreateNetwork(t.Context(), network("a", "10.1.0.0/24", nil)))
	if err := h.CreateNetwork(t.Context(), network("a", "10.2.0.0/24", nil)); !errors.Is(err, driver.ErrExists) {
		t.Errorf("other settings: %v", err)
	}
}

// TestPortsTaken: the error names the endpoint, and nothing is half open.
func TestPortsTaken(t *testing.T) {
	h := newHouse(t)
	h.must(h.CreateNetwork(t.Context(), network("a", "10.1.0.0/24", map[string]string{"publish": "native"})))
	for letter, addr := range map[string]string{"b": "10.1.0.2/24", "c": "10.1.0.3/24"} {
		_, err := h.CreateEndpoint(t.Context(), endpoint(letter, "a", addr))
		h.must(err)
		_, err = h.Join(t.Context(), id("a"), id(letter), "/x", nil)
		h.must(err)
	}
	h.must(h.Publish(t.Context(), id("a"), id("b"), []driver.Binding{{Proto: 6, Port: 80, HostPort: 8080}}))
	err := h.Publish(t.Context(), id("a"), id("c"), []driver.Binding{{Proto: 6, Port: 80, HostPort: 8081}, {Proto: 6, Port: 80, HostPort: 8080}})
	if !errors.Is(err, hostport.ErrTaken) || !strings.Contains(err.Error(), id("b")) {
		t.Errorf("error %v", err)
	}
	if len(h.ports.held[id("c")]) != 0 || strings.Contains(h.fw.Dump(), "8081") {
		t.Errorf("half open: %v\n%s", h.ports.held, h.fw.Dump())
	}
}

// joinedTo makes a network with these options and one joined endpoint.
func (h *house) joinedTo(options map[string]string) {
	h.Helper()
	h.must(h.CreateNetwork(h.Context(), network("a", "10.1.0.0/24", options)))
	_, err := h.CreateEndpoint(h.Context(), endpoint("b", "a", "10.1.0.2/24"))
	h.must(err)
	_, err = h.Join(h.Context(), id("a"), id("b"), "/x", nil)
	h.must(err)
}

// TestRoutedPorts are open as they are, and close again.
func TestRoutedPorts(t *testing.T) {
	h := newHouse(t)
	h.joinedTo(map[string]string{"com.docker.network.bridge.gateway_mode_ipv4": "routed"})
	open := func(port string) bool { return strings.Contains(h.fw.Dump(), port) }
	h.must(h.Publish(t.Context(), id("a"), id("b"), []driver.Binding{{Proto: 6, Port: 8123}}))
	if !open("8123") {
		t.Errorf("not open:\n%s", h.fw.Dump())
	}
	h.must(h.Publish(t.Context(), id("a"), id("b"), []driver.Binding{{Proto: 6, Port: 8124}}))
	if open("8123") || !open("8124") {
		t.Errorf("not replaced:\n%s", h.fw.Dump())
	}
	h.must(h.Unpublish(t.Context(), id("a"), id("b")))
	if open("8124") {
		t.Errorf("not closed:\n%s", h.fw.Dump())
	}
}

// TestJoinAfterLeave: the link that Leave has doomed is not taken for the new one.
func TestJoinAfterLeave(t *testing.T) {
	h := newHouse(t)
	h.direct = true
	h.kernel.AddSandbox("/ns")
	h.must(h.CreateNetwork(t.Context(), network("a", "10.1.0.0/24", map[string]string{"attach": "direct"})))
	ep := endpoint("b", "a", "10.1.0.2/24")
	ep.DriverOpts = map[string]string{"com.docker.network.endpoint.ifname": "lan0"}
	_, err := h.CreateEndpoint(t.Context(), ep)
	h.must(err)
	for range 2 { // twice: the same answer
		_, err = h.Join(t.Context(), id("a"), id("b"), "/ns", nil)
		h.must(err)
	}
	h.must(h.Leave(t.Context(), id("a"), id("b")))
	_, err = h.Join(t.Context(), id("a"), id("b"), "/ns", nil)
	h.must(err)
	h.settle()
	if d := h.kernel.Dump(); !strings.Contains(d, "peer=/ns:lan0 [10.1.0.2/24]") {
		t.Errorf("the interface is gone:\n%s", d)
	}
}

// TestForgottenFlows name the container: the port alone is also that of
// unrelated connections.
func TestForgottenFlows(t *testing.T) {
	h := newHouse(t)
	h.joinedTo(map[string]string{"publish": "native"})
	h.must(h.Publish(t.Context(), id("a"), id("b"), []driver.Binding{{Proto: 17, Port: 53, HostPort: 53}, {Proto: 6, Port: 443, HostPort: 443}}))
	h.must(h.Unpublish(t.Context(), id("a"), id("b")))
	h.settle()
	flows := h.kernel.Forgotten()
	if len(flows) == 0 {
		t.Fatal("nothing was forgotten")
	}
	for _, f := range flows {
		if !f.Reply.IsValid() {
			t.Errorf("%+v matches strangers", f)
		}
	}
}

// TestForeignBridge: a name that looks like ours makes no bridge ours.
func TestForeignBridge(t *testing.T) {
	h := newHouse(t)
	h.kernel.AddDevice(kernel.Link{Name: "wf-lan", Kind: "bridge", Up: true}, netip.MustParsePrefix("10.7.0.1/24"))
	before := h.kernel.Dump()
	if _, err := h.Reconcile(t.Context(), driver.Full); err != nil {
		t.Fatal(err)
	}
	h.must(h.CreateNetwork(t.Context(), network("a", "10.7.0.0/24", map[string]string{"com.docker.network.bridge.name": "wf-lan", "publish": "native"})))
	h.must(h.DeleteNetwork(t.Context(), id("a")))
	if got := h.kernel.Dump(); strings.Contains(got, "wf-lan") != strings.Contains(before, "wf-lan") {
		t.Errorf("the bridge is gone:\n%s", got)
	}
	if v, err := h.kernel.Sysctl("net/ipv4/conf/wf-lan/route_localnet"); err != nil || v != "0" {
		t.Errorf("route_localnet stays %s, %v", v, err)
	}
}

// TestBlind: a journal that is not the one of this host's links sweeps none of
// them away, and a reset does.
func TestBlind(t *testing.T) {
	h := newHouse(t)
	h.blind = true
	h.start()
	_, err := h.kernel.EnsureBridge(kernel.Bridge{Name: "wf-dddddddddddd"})
	h.must(err)
	if report, err := h.Reconcile(t.Context(), driver.Full); err != nil || len(report.Repaired) > 0 {
		t.Errorf("reconcile: %v, %v", report.Repaired, err)
	}
	h.must(h.Reset(t.Context()))
	if d := h.kernel.Dump(); strings.Contains(d, "wf-") {
		t.Errorf("reset left:\n%s", d)
	}
}

// forwards is what the host's settings say, IPv4 and IPv6.
func (h *house) forwards() string {
	h.Helper()
	v4, err := h.kernel.Sysctl("net.ipv4.ip_forward")
	h.must(err)
	v6, err := h.kernel.Sysctl("net.ipv6.conf.all.forwarding")
	h.must(err)
	return v4 + v6
}

// setForwarding is what somebody else, or a boot, makes of these.
func (h *house) setForwarding(value string) {
	h.Helper()
	for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		_, err := h.kernel.EnsureSysctl(kernel.Sysctl{Key: key, Value: value})
		h.must(err)
	}
}

// TestForwarding: a host that begins to forward is no router for strangers, and the engine
// finds it as it was when it starts after a boot, because it decides on that by itself.
func TestForwarding(t *testing.T) {
	h := newHouse(t)
	ctx := t.Context()
	ra := kernel.Sysctl{Key: "net/ipv6/conf/eth0/accept_ra", Value: "1"}
	_, err := h.kernel.EnsureSysctl(ra)
	h.must(err)
	internal := network("a", "10.1.0.0/24", nil)
	internal.Internal = true
	h.must(h.CreateNetwork(ctx, internal))
	if got := h.forwards(); got != "00" {
		t.Errorf("with an internal network the host forwards %s", got)
	}
	h.must(h.CreateNetwork(ctx, network("b", "10.2.0.0/24", nil)))
	dual := network("c", "10.3.0.0/24", nil)
	dual.IPv6 = []driver.Subnet{{Pool: netip.MustParsePrefix("fd03::/64"), Gateway: netip.MustParseAddr("fd03::1")}}
	if got := h.forwards(); got != "10" || h.fw.Policies(false) != 1 || h.fw.Policies(true) != 0 {
		t.Errorf("with an IPv4 network the host forwards %s, policies %d and %d", got, h.fw.Policies(false), h.fw.Policies(true))
	}
	h.must(h.CreateNetwork(ctx, dual))
	if got := h.forwards(); got != "11" || h.fw.Policies(false) != 1 || h.fw.Policies(true) != 1 {
		t.Errorf("with both families the host forwards %s, policies %d and %d", got, h.fw.Policies(false), h.fw.Policies(true))
	}
	if got, err := h.kernel.Sysctl(ra.Key); err != nil || got != "2" {
		t.Errorf("accept_ra of the uplink is %s (%v)", got, err)
	}
	_, err = h.CreateEndpoint(ctx, endpoint("d", "c", "10.3.0.2/24"))
	h.must(err)

	h.setForwarding("0") // a boot
	_, err = h.kernel.EnsureSysctl(ra)
	h.must(err)
	h.start()
	if got, err := h.kernel.Sysctl(ra.Key); err != nil || got != "2" {
		t.Errorf("when the engine turns forwarding on, accept_ra of the uplink is %s (%v)", got, err)
	}
	reconcile := func() {
		t.Helper()
		_, err := h.Reconcile(ctx, driver.Full)
		h.must(err)
	}
	reconcile()
	if got := h.forwards(); got != "00" {
		t.Errorf("before the engine is up the host forwards %s", got)
	}
	_, err = h.Join(ctx, id("c"), id("d"), "/run/netns/x", nil)
	h.must(err)
	if got := h.forwards(); got != "11" || h.fw.Policies(false) != 2 {
		t.Errorf("with a container the host forwards %s", got)
	}
	h.setForwarding("0")
	reconcile() // the engine has called: it needs not answer
	if got := h.forwards(); got != "11" {
		t.Errorf("after a container the host forwards %s", got)
	}
	h.setForwarding("0")
	h.start()
	h.setForwarding("0")
	h.up = true
	reconcile()
	if got := h.forwards(); got != "11" {
		t.Errorf("when the engine is up the host forwards %s", got)
	}
}

// TestForwardingFails: the policy cannot be set, as somebody holds the lock of iptables. A
// container starts all the same, because nobody would try again, and the next one does not
// wait for the same; a network is refused.
func TestForwardingFails(t *testing.T) {
	h := newHouse(t)
	ctx := t.Context()
	h.must(h.CreateNetwork(ctx, network("a", "10.1.0.0/24", nil)))
	for _, letter := range []string{"b", "c"} {
		_, err := h.CreateEndpoint(ctx, endpoint(letter, "a", map[string]string{"b": "10.1.0.2/24", "c": "10.1.0.3/24"}[letter]))
		h.must(err)
	}
	h.setForwarding("0")
	h.fw.FailPolicy(errors.New("the lock is held"))
	before := h.fw.Policies(false)
	for _, letter := range []string{"b", "c"} {
		_, err := h.Join(ctx, id("a"), id(letter), "/run/netns/"+letter, nil)
		h.must(err)
	}
	if got := h.forwards(); got != "00" || h.fw.Policies(false) != before+1 {
		t.Errorf("the host forwards %s, after %d attempts", got, h.fw.Policies(false)-before)
	}
	if err := h.CreateNetwork(ctx, network("d", "10.2.0.0/24", nil)); err == nil || !strings.Contains(err.Error(), "the lock is held") {
		t.Errorf("a network is made: %v", err)
	}
	if _, err := h.Reconcile(ctx, driver.Changes); err == nil {
		t.Error("reconcile does not say that it failed")
	}
	h.fw.FailPolicy(nil)
	_, err := h.Reconcile(ctx, driver.Changes)
	h.must(err)
	if got := h.forwards(); got != "10" {
		t.Errorf("afterwards the host forwards %s", got)
	}
}

package e2e_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/test/lab"
)

// offWithin is how soon after it reaches the store a host that was removed while it
// ran takes what others have by now off the network.
const offWithin = 5 * time.Second

// TestClusterPoweredOffAlive removes a host that is only cut off, with the word that it
// is powered off. Its addresses are used again; when it comes back, its containers must
// not use them any more.
func TestClusterPoweredOffAlive(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterConfig{engines: []string{lab.DefaultEngine, lab.DefaultEngine}, members: 1})
	h1, h2 := c.sites[0], c.sites[1]
	pools := map[string]string{"moved": "10.89.0.0/29", "direct": "10.89.1.0/29"} // 5 addresses each
	c.networks("moved", "--subnet", pools["moved"])
	c.networks("direct", "--subnet", pools["direct"], "-o", "attach=direct")
	ghosts := map[string]*ghost{}
	for network := range pools {
		h1.run("a-"+network, "--network", network)
		ghosts[network] = h1.ghost("a-"+network, network)
	}
	c.overlays("over", "--subnet", "10.89.2.0/24")
	h1.server("a-over", "--network", "over")
	own := h1.itself("10.89.2.")
	h1.pings(h1.from("a-over"), h1.out.IPv4.String())
	h1.must(h1.CutLink(c.Context()))
	c.comesTrue("h1 to be removed", func() error {
		_, err := h2.Run(h2.Context(), "weft", "host", "rm", "--powered-off", "h1")
		return err
	})
	for network, subnet := range pools {
		h2.must(h2.crowd(network, network, 5))
		if used := h2.used(subnet); !used[ghosts[network].addr] {
			c.Fatalf("h2 does not use %v: %v", ghosts[network].addr, addrs(used))
		}
		h1.pings(h1.fromHost(), ghosts[network].addr.String()) // it lives
	}
	h2.server("b-over", "--network", "over", "--ip", own.String())
	c.step("off the network in time", func(c *cluster) { c.sites[0].vanish(ghosts) })
	c.step("with another address for itself", func(c *cluster) { c.yields(own) })
	c.step("and it stays off", func(c *cluster) {
		c.sites[0].staysOff(ghosts)
		for _, g := range ghosts {
			c.sites[1].pings(c.sites[1].fromHost(), g.addr.String())
		}
	})
	c.step("restarted, it has a free address", func(c *cluster) {
		h1, h2, g := c.sites[0], c.sites[1], ghosts["moved"]
		h2.docker("rm", "-f", h2.whoHas("moved", func(a netip.Addr) bool { return a != g.addr }))
		h1.docker("stop", "-t0", "a-moved")
		h1.docker("start", "a-moved")
		now := h1.ip("a-moved", "moved")
		if now == g.addr.String() {
			c.Errorf("it has %s still", now)
		}
		h1.pings(h1.fromHost(), now)
		c.agree("moved", pools["moved"])
	})
	c.step("or its own again when nobody uses it", func(c *cluster) {
		h1, h2, g := c.sites[0], c.sites[1], ghosts["direct"]
		h2.docker("rm", "-f", h2.whoHas("direct", func(a netip.Addr) bool { return a == g.addr }))
		begin := time.Now()
		c.comesTrue("the link to come up", func() error {
			if up, err := h1.linkUp(g.link); err != nil || !up {
				return fmt.Errorf("up: %t, %w", up, errors.Join(err, errors.New("not yet")))
			}
			return nil
		})
		c.Logf("up again %v after its address was free", time.Since(begin).Round(time.Millisecond))
		h1.pings(h1.fromHost(), g.addr.String())
		c.agree("direct", pools["direct"])
		if st := weftJSON[admin.Status](h1, "status"); len(st.Conflicts) > 0 {
			c.Errorf("conflicts: %v", st.Conflicts)
		}
	})
}

// ghost is a container of a host that was removed: its address and its link.
type ghost struct {
	addr netip.Addr
	link string
}

func (s *site) ghost(container, network string) *ghost {
	s.Helper()
	g := &ghost{addr: netip.MustParseAddr(s.ip(container, network))}
	for _, ep := range weftJSON[[]admin.Endpoint](s, "endpoints") {
		if slices.ContainsFunc(ep.Addresses, func(p netip.Prefix) bool { return p.Addr() == g.addr }) {
			g.link = ep.HostLink
		}
	}
	if g.link == "" {
		s.Fatalf("no endpoint has %v", g.addr)
	}
	return g
}

// linkUp reports whether a device of the host is set up.
func (s *site) linkUp(name string) (bool, error) {
	out, err := s.Run(s.Context(), "ip", "-o", "link", "show", "dev", name)
	_, flags, _ := strings.Cut(out, "<")
	flags, _, _ = strings.Cut(flags, ">")
	return slices.Contains(strings.Split(flags, ","), "UP"), err
}

// vanish lets a removed host reach the store again, and measures how long its
// containers stay on the network.
func (s *site) vanish(ghosts map[string]*ghost) {
	s.Helper()
	s.must(s.HealLink(s.Context()))
	healed := time.Now()
	var reached time.Time
	down := map[string]bool{}
	for len(down) < len(ghosts) {
		if reached.IsZero() && weftJSON[admin.Status](s, "status").Store.Up {
			reached = time.Now()
		}
		for network, g := range ghosts {
			up, err := s.linkUp(g.link)
			s.must(err)
			if !up && !down[network] {
				down[network] = true
				s.Logf("%s: off the network %v after the link healed, %v after weft had the store", network,
					time.Since(healed).Round(time.Millisecond), time.Since(reached).Round(time.Millisecond))
			}
		}
		if late := time.Since(reached); !reached.IsZero() && late > offWithin {
			s.Fatalf("%v after weft had the store only %v are off the network", late, down)
		}
		if time.Since(healed) > time.Minute {
			s.Fatal("weft did not reach the store")
		}
	}
}

// staysOff looks at what an operator sees, and that a restart of weft changes nothing.
func (s *site) staysOff(ghosts map[string]*ghost) {
	s.Helper()
	look := func() {
		s.Helper()
		status, endpoints := s.weft("status"), s.weft("endpoints")
		if n := strings.Count(endpoints, "off the network"); n != len(ghosts) {
			s.Errorf("%d endpoints are said to be off the network:\n%s", n, endpoints)
		}
		for _, g := range ghosts {
			if !strings.Contains(status, g.addr.String()) || !strings.Contains(status, "CONFLICT") {
				s.Errorf("weft status does not say that %v is in conflict:\n%s", g.addr, status)
			}
			if up, err := s.linkUp(g.link); up || err != nil {
				s.Errorf("%s is up: %t, %v", g.link, up, err)
			}
			s.noPing(s.fromHost(), g.addr.String())
		}
	}
	look()
	// Somebody sets a link up.
	for _, g := range ghosts {
		s.must(errOf(s.Run(s.Context(), "ip", "link", "set", g.link, "up")))
		s.comesBack("the link to go down", func() error {
			if up, err := s.linkUp(g.link); up || err != nil {
				return fmt.Errorf("up: %t, %w", up, errors.Join(err, errors.New("not yet")))
			}
			return nil
		})
	}
	s.must(s.KillPlugin(s.Context()))
	s.comesBack("weft", func() error {
		st, err := s.Run(s.Context(), "weft", "status")
		if err == nil && strings.Contains(st, " 0 runs,") {
			err = errors.New("it has not looked yet")
		}
		return err
	})
	look()
}

// errOf is the error of a call whose answer nobody needs.
func errOf(_ string, err error) error { return err }

// whoHas is the first running container on a network whose address fits.
func (s *site) whoHas(network string, fits func(netip.Addr) bool) string {
	s.Helper()
	for name := range strings.FieldsSeq(s.docker("ps", "--format", "{{.Names}}", "--filter", "network="+network)) {
		if fits(netip.MustParseAddr(s.ip(name, network))) {
			return name
		}
	}
	s.Fatal("no container has such an address")
	return ""
}

// itself is the host's own address on an overlay.
func (s *site) itself(prefix string) netip.Addr {
	s.Helper()
	for line := range strings.Lines(s.sh("ip -o -4 addr show")) {
		words := strings.Fields(line)
		p, err := netip.ParsePrefix(words[3])
		if err == nil && strings.HasPrefix(words[3], prefix) && !p.IsSingleIP() { // the gateway is one
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// yields: the first host's own address on an overlay is a container's of the second by
// now. So the first has another one, and thus another bridge; its container, whose
// address nobody took, is in that, and hears of the gateway's new MAC address.
func (c *cluster) yields(own netip.Addr) {
	c.Helper()
	h1, h2 := c.sites[0], c.sites[1]
	var now netip.Addr
	h1.eventually("another address of its own", func() error {
		if now = h1.itself("10.89.2."); now == own || !now.IsValid() {
			return fmt.Errorf("it has %v", now)
		}
		return nil
	})
	begin := time.Now()
	h1.pings(h1.fromHost(), now.String())
	client, address := h1.from("a-over"), h1.ip("a-over", "over")
	c.comesTrue("the way out over the new bridge", func() error {
		_, err := client("ping", "-c1", "-W1", h1.out.IPv4.String())
		return err
	})
	// Nobody told it: it believes in the old MAC address for some 20 s.
	if took := time.Since(begin); took > offWithin-time.Second {
		h1.Errorf("the container had no gateway for %v", took.Round(time.Millisecond))
	}
	h1.answers(h1.fromHost(), own.String()+":80", "b-over")
	h1.answers(client, own.String()+":80", "b-over")
	h2.answers(h2.fromHost(), address+":80", "a-over")
	h2.answers(h2.from("b-over"), address+":80", "a-over")
	h2.pings(h2.from("b-over"), now.String())
	h2.pings(h2.fromHost(), now.String())
	if at := h1.itself("10.89.2."); at != now {
		h1.Errorf("it has %v now, and had %v", at, now)
	}
}

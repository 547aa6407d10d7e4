package e2e_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/lab"
)

// TestClusterRestart lets everything restart that can, with a store: addresses
// stay correct.
func TestClusterRestart(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterConfig{engines: engines(), members: 3})
	const subnet = "10.82.0.0/24"
	c.networks("re", "--subnet", subnet)
	for i, s := range c.sites {
		s.run("dyn", "--network", "re", "--restart", "always", "--stop-signal", "KILL")
		s.run("fix", "--network", "re", "--ip", fmt.Sprintf("10.82.0.%d", 201+i), "--restart", "always", "--stop-signal", "KILL")
	}
	c.agree("re", subnet)
	// While these go on, the containers keep what they have.
	c.steps("plugin killed", func(s *site) { s.keeps("re", func() { s.must(s.KillPlugin(s.Context())) }) })
	c.steps("plugin removed and created", func(s *site) {
		s.keeps("re", func() {
			s.must(s.DisablePlugin(s.Context(), true))
			s.must(s.RemovePlugin(s.Context(), true))
			s.must(s.InstallPlugin(s.Context(), pluginDir(s.TB), c.settings()...))
		})
	})
	c.agree("re", subnet)
	// These stop the containers.
	c.steps("containers restarted", func(s *site) { s.quick("restart", "-t0", "dyn", "fix") })
	c.restarted(subnet)
	c.steps("engine killed", func(s *site) {
		s.must(s.KillEngine(s.Context()))
		took, err := s.StartEngine(s.Context())
		s.backInTime("start after a kill", took, err)
	})
	c.restarted(subnet)
	c.steps("power cut", func(s *site) {
		s.must(s.PowerOff(s.Context()))
		begin := time.Now()
		s.must(s.Boot(s.Context()))
		s.backInTime("boot", time.Since(begin), nil)
	})
	c.restarted(subnet)
	for _, s := range c.sites {
		s.noRouter("iptables")
	}
	// The same without the store: it is not there when the hosts boot.
	c.storeDown()
	c.steps("power cut with the store down", func(s *site) {
		s.must(s.PowerOff(s.Context()))
		s.must(s.Boot(s.Context()))
		s.awaken("dyn", "fix")
		s.quick("run", "-d", "--name", "new", "--network", "re", lab.Image, "sleep", "infinity")
	})
	c.apart("re", 3)
	c.storeUp()
	c.restarted(subnet)
	c.clear("re")
	c.nobodyOwns(subnet)
}

// noRouter makes sure that the host forwards what is accepted and nothing else, in the family
// of iptables or ip6tables.
func (s *site) noRouter(iptables string) {
	s.Helper()
	const want = "-P FORWARD DROP"
	if got := s.sh(iptables + " -S FORWARD | head -1"); strings.TrimSpace(got) != want {
		s.Errorf("%s: %s -S FORWARD begins with %q, want %q", s.Host.Name, iptables, got, want)
	}
}

// keeps makes sure that what happens changes no container's address, and that
// weft serves afterwards with the same book.
func (s *site) keeps(network string, happens func()) {
	s.Helper()
	before, err := s.held(network)
	s.must(err)
	happens()
	s.comesBack("weft", func() error { _, err := s.Run(s.Context(), "weft", "status"); return err })
	after, err := s.held(network)
	s.must(err)
	if err := same(fmt.Sprint(addrs(before)), fmt.Sprint(addrs(after))); err != nil {
		s.Error(err)
	}
}

// awaken waits until containers run.
func (s *site) awaken(names ...string) {
	s.Helper()
	for _, name := range names {
		s.comesBack(name+" to run", func() error {
			if state := s.inspect(name, "{{.State.Running}}"); state != "true" {
				return fmt.Errorf("running: %s", state)
			}
			return nil
		})
	}
}

// restarted waits for the containers of all hosts, and looks at their addresses.
func (c *cluster) restarted(subnet string) {
	c.Helper()
	for i, s := range c.sites {
		s.awaken("dyn", "fix")
		if a, want := s.ip("fix", "re"), fmt.Sprintf("10.82.0.%d", 201+i); a != want {
			c.Errorf("%s: --ip %s gave %s after a restart", s.Host.Name, want, a)
		}
		if a := netip.MustParseAddr(s.ip("dyn", "re")); !netip.MustParsePrefix(subnet).Contains(a) {
			c.Errorf("%s: the address is %v", s.Host.Name, a)
		}
	}
	c.agree("re", subnet)
}

package e2e_test

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/lab"
)

// crowdEach is how many containers start on each host at once; crowdMore how many
// more with the store down.
const crowdEach, crowdMore = 100, 20

// TestClusterShare has two, then three hosts in one pool. It is not parallel to
// other tests: it fills the machine.
func TestClusterShare(t *testing.T) {
	c := newCluster(t, clusterConfig{engines: []string{lab.DefaultEngine, lab.DefaultEngine, lab.DefaultEngine}, members: 3})
	c.step("two hosts", func(c *cluster) {
		c.sites = c.sites[:2]
		const subnet = "10.84.0.0/24"
		c.networks("two", "--subnet", subnet)
		c.all(func(s *site) error { return s.crowd("two", "two", 10) })
		c.agree("two", subnet)
		c.clear("two")
	})
	c.step("hundreds at once", (*cluster).hundreds)
	c.step("a host that never comes back", (*cluster).buried)
}

// networks makes a network on each host.
func (c *cluster) networks(name string, args ...string) {
	c.Helper()
	c.all(func(s *site) error {
		_, err := s.command(append([]string{"network", "create", "-d", plugin, "--ipam-driver", plugin, name}, args...)...)
		return err
	})
}

// clear removes all containers and a network on each host that is on.
func (c *cluster) clear(network string) {
	c.Helper()
	c.all(func(s *site) error {
		if s.PID() == 0 {
			return nil
		}
		if err := s.removeAll(s.Context()); err != nil {
			return err
		}
		_, err := s.command("network", "rm", network)
		return err
	})
}

func (c *cluster) hundreds() {
	const subnet = "10.85.0.0/16"
	c.networks("many", "--subnet", subnet)
	begin := time.Now()
	c.all(func(s *site) error { return s.crowd("many", "many", crowdEach) })
	c.Logf("%d containers on each of %d hosts started in %v", crowdEach, len(c.sites), time.Since(begin).Round(time.Millisecond))
	c.agree("many", subnet)

	c.storeDown()
	begin = time.Now()
	c.all(func(s *site) error { return s.crowd("many", "more", crowdMore) })
	c.Logf("%d more with the store down in %v", crowdMore, time.Since(begin).Round(time.Millisecond))
	// What is released meanwhile is, too.
	for _, s := range c.sites {
		s.docker("rm", "-f", "many0", "many1")
	}
	c.apart("many", crowdEach+crowdMore-2)
	c.storeUp()
	c.agree("many", subnet)
	c.apart("many", crowdEach+crowdMore-2)
	c.clear("many")
	c.nobodyOwns(subnet)
}

// apart makes sure that every host has n containers, and no two of them all the
// same address.
func (c *cluster) apart(network string, n int) {
	c.Helper()
	whose := map[netip.Addr]string{}
	for _, s := range c.sites {
		held, err := s.held(network)
		if err != nil || len(held) != n {
			c.Errorf("%s has %d containers on %s, not %d (%v)", s.Host.Name, len(held), network, n, err)
		}
		for a := range held {
			if other, twice := whose[a]; twice {
				c.Errorf("%s and %s both use %v", s.Host.Name, other, a)
			}
			whose[a] = s.Host.Name
		}
	}
}

// nobodyOwns waits until the store knows no owner in a subnet.
func (c *cluster) nobodyOwns(subnet string) {
	c.Helper()
	c.comesTrue("the owners in "+subnet+" to go", func() error {
		owners, err := c.owners(subnet)
		if err == nil && len(owners) > 0 {
			err = fmt.Errorf("%d addresses have one", len(owners))
		}
		return err
	})
}

// buried powers a host off for good. The pool has 13 addresses beside the
// gateway's: what the dead host had must be used again.
func (c *cluster) buried() {
	const subnet, each = "10.86.0.0/28", 4
	c.networks("small", "--subnet", subnet)
	c.all(func(s *site) error { return s.crowd("small", "small", each) })
	c.agree("small", subnet)
	h1, h3 := c.sites[0], c.sites[2]
	dead, err := h3.held("small")
	c.must(err)

	// Not while it lives.
	if out, err := h1.Run(h1.Context(), "weft", "host", "rm", "h3"); err == nil || !strings.Contains(err.Error(), "h3") {
		c.Errorf("a living host was removed: %s %v", out, err)
	}
	c.must(h3.PowerOff(c.Context()))
	h1.weft("host", "rm", "--powered-off", "h3")
	if hosts := h1.weft("host", "ls"); !strings.Contains(hosts, "h1") || !strings.Contains(hosts, "h2") {
		c.Errorf("weft host ls:\n%s", hosts)
	}
	// One address is free, four were the dead host's.
	c.must(h1.crowd("small", "again", 1+each))
	h1.docker("create", "--name", "toomany", "--network", "small", lab.Image, "true")
	h1.refuse([]string{subnet, "h2"}, "start", "toomany")
	h1.docker("rm", "toomany")
	now, err := h1.held("small")
	c.must(err)
	for a := range dead {
		if !now[a] {
			c.Errorf("%v was the dead host's and is not used; h1 has %v", a, addrs(now))
		}
	}
	others, err := c.sites[1].held("small")
	c.must(err)
	maps.DeleteFunc(others, func(a netip.Addr, _ bool) bool { return !now[a] })
	if len(others) > 0 {
		c.Errorf("h1 and h2 both use %v", addrs(others))
	}
	c.agree("small", subnet)
	c.clear("small")
}

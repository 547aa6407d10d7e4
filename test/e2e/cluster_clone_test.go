package e2e_test

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/test/lab"
)

const (
	cloneNet    = "clone"
	cloneSubnet = "10.91.0.0/24"
)

// TestClusterClone copies the disk of a host to another one, as who clones a virtual
// machine does: the copy is known for one, and the original goes on.
func TestClusterClone(t *testing.T) {
	t.Parallel()
	// The hosts have no cards, and see the firmware of this machine.
	if uuid, err := os.ReadFile("/sys/class/dmi/id/product_uuid"); err == nil && strings.TrimSpace(string(uuid)) != "" {
		t.Skip("all test hosts have the firmware's UUID of this machine: what is told here is of machines that have none")
	}
	engine := engines()[len(engines())-1]
	c := newCluster(t, clusterConfig{engines: slices.Repeat([]string{engine}, 3), members: 1})
	c.networks(cloneNet, "--subnet", cloneSubnet)
	for _, s := range c.sites {
		for _, name := range cloneNames() {
			s.run(name, "--network", cloneNet, "--restart", "always", "--stop-signal", "KILL")
		}
	}
	c.agree(cloneNet, cloneSubnet)
	h1, h3 := c.sites[0], c.sites[2]
	c.step("beside the original", func(c *cluster) { c.cloned("beside", h1, h3) })
	c.step("before the original", func(c *cluster) { c.cloned("before", h3, h1) })
	c.step("with the store down", (*cluster).clonedApart)
}

// cloneNames are the containers of each host: the copy's engine starts them, too.
func cloneNames() []string { return []string{"web0", "web1", "web2"} }

// cloned starts original and copy while the store is up: first one of them, the other
// when that is a member. Then both start containers of some prefix.
func (c *cluster) cloned(prefix string, order ...*site) {
	h1, h3 := c.sites[0], c.sites[2]
	me, old := h1.id(), h3.id()
	c.copied(h1, h3)
	for _, s := range order {
		s = s.on(c.TB)
		c.must(s.Boot(c.Context()))
		c.member(s)
	}
	c.separated(me, old)
	c.must(h1.crowd(cloneNet, prefix, 4))
	c.must(h3.crowd(cloneNet, prefix, 4))
	c.agree(cloneNet, cloneSubnet)
	c.separated(me, old)
}

// clonedApart starts the copy first, and neither sees the store. The original has what
// it owns; the copy has nothing.
func (c *cluster) clonedApart() {
	h1, h3 := c.sites[0], c.sites[2]
	me, old := h1.id(), h3.id()
	c.storeDown()
	c.copied(h1, h3)
	c.must(h3.Boot(c.Context()))
	c.must(h1.Boot(c.Context()))
	h1.awaken(cloneNames()...)
	c.noneTwice()
	h1.quick("run", "-d", "--name", "down0", "--network", cloneNet, lab.Image, "sleep", "infinity")
	if id := h1.id(); id != me {
		c.Errorf("the original is %s now; it was %s", id, me)
	}
	if id := h3.id(); id == me || id == old {
		c.Errorf("the copy has the id %s; the original %s, and it had %s before", id, me, old)
	}
	h3.docker("create", "--name", "down0", "--network", cloneNet, lab.Image, "sleep", "infinity")
	for _, name := range append(cloneNames(), "down0") {
		h3.refuseWithin(patience, []string{"the store is down"}, "start", name)
	}
	if own := h3.owned(cloneSubnet); own != 0 {
		c.Errorf("the copy says that it owns %d addresses", own)
	}
	if own := h1.owned(cloneSubnet); own == 0 {
		c.Error("the original says that it owns nothing")
	}
	h1.quick("run", "-d", "--name", "down1", "--network", cloneNet, lab.Image, "sleep", "infinity")
	c.noneTwice()

	c.storeUp()
	c.separated(me, old)
	h3.docker("start", "down0")
	c.agree(cloneNet, cloneSubnet)
	c.must(h1.crowd(cloneNet, "later", 4))
	c.must(h3.crowd(cloneNet, "later", 4))
	c.agree(cloneNet, cloneSubnet)
	c.noneTwice()
}

// copied powers both off, and gives one the disk of the other.
func (c *cluster) copied(from, to *site) {
	c.Helper()
	c.must(errors.Join(from.PowerOff(c.Context()), to.PowerOff(c.Context())))
	c.must(from.CloneTo(c.Context(), to.Host))
}

// member waits until the host is one, by its own status.
func (c *cluster) member(s *site) {
	c.Helper()
	c.comesTrue(s.Host.Name+" to be a member", func() error {
		text, err := s.Run(s.Context(), "weft", "store", "status")
		if err != nil {
			return err
		}
		if st := weftJSON[admin.Status](s, "status").Store; st == nil || !st.Up || st.Standing != "member" {
			return errors.New(text)
		}
		return nil
	})
}

// separated waits until original and copy are members, each with an id of its own,
// and their containers run with addresses of their own. The original's id is me; the
// copy has neither that nor the one of the host whose disk was replaced.
func (c *cluster) separated(me, old string) {
	c.Helper()
	h1, h3 := c.sites[0], c.sites[2]
	c.member(h1)
	c.member(h3)
	if id := h1.id(); id != me {
		c.Errorf("the original is %s now; it was %s", id, me)
	}
	if id := h3.id(); id == me || id == old {
		c.Errorf("the copy has the id %s; the original %s, and it had %s before", id, me, old)
	}
	// The engine gives a container up that does not start when it starts itself.
	for _, s := range []*site{h1, h3} {
		c.comesTrue("the containers of "+s.Host.Name+" to start", func() error {
			_, err := s.Docker(s.Context(), append([]string{"start"}, cloneNames()...)...)
			return err
		})
	}
	c.agree(cloneNet, cloneSubnet)
}

// owned is how many addresses of a pool weft says that the host owns.
func (s *site) owned(subnet string) int {
	s.Helper()
	for _, p := range weftJSON[[]admin.Pool](s, "ipam") {
		if p.Subnet.String() == subnet && p.Cluster != nil {
			return p.Cluster.Own
		}
	}
	s.Fatalf("%s: weft ipam has no pool %s that is shared", s.Host.Name, subnet)
	return 0
}

// noneTwice makes sure that no two running containers of all hosts have one address.
func (c *cluster) noneTwice() {
	c.Helper()
	whose := map[netip.Addr]string{}
	for _, s := range c.sites {
		held, err := s.held(cloneNet)
		c.must(err)
		for a := range held {
			if other, twice := whose[a]; twice {
				c.Errorf("%s and %s both use %v", s.Host.Name, other, a)
			}
			whose[a] = s.Host.Name
		}
	}
}

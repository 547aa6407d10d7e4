package e2e_test

import (
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/admin"
)

// macvlanCrowd starts 100 containers on each host, half of them while the store is down, in
// a range of which a machine that is no container has every eighth address. Nobody gets an
// address twice, or one of the machine's.
func (c *cluster) macvlanCrowd() {
	c.Helper()
	const half, subnet = 50, "10.79.0.0/22"
	machine := c.sites[0].fromOutside()
	_, err := machine("sh", "-c", "for i in $(seq 3 8 1021); do ip addr add 10.79.$((i/256)).$((i%256))/22 dev eth0; done")
	c.must(err)
	text, err := machine("cat", "/sys/class/net/eth0/address")
	c.must(err)
	mac := strings.TrimSpace(text)
	foreign := func(a netip.Addr) bool {
		raw := a.As4()
		return (int(raw[2])*256+int(raw[3]))%8 == 3
	}
	alone := func(each int) {
		c.Helper()
		c.apart("crowd", each)
		for _, s := range c.sites {
			held, err := s.held("crowd")
			c.must(err)
			for a := range held {
				if foreign(a) {
					c.Errorf("%s gave %s, which another machine has", s.Host.Name, a)
				}
			}
		}
	}
	pool := func(s *site) admin.Pool {
		c.Helper()
		for _, p := range weftJSON[[]admin.Pool](s, "ipam") {
			if p.Subnet.String() == subnet {
				return p
			}
		}
		c.Fatalf("%s shows no pool %s", s.Host.Name, subnet)
		return admin.Pool{}
	}
	start := func(prefix, how string) {
		c.Helper()
		begin := time.Now()
		c.all(func(s *site) error { return s.crowd("crowd", prefix, half) })
		c.Logf("%d containers on each of %d hosts started %s in %v", half, len(c.sites), how, time.Since(begin).Round(time.Millisecond))
	}
	c.lan("crowd", "--subnet", subnet, "--gateway", "10.79.0.1", "-o", "parent=ens1,eth0")
	start("crowd", "with the store")
	alone(half)
	for _, s := range c.sites {
		s.eventually(s.Host.Name+" to own addresses for the rest", func() error {
			if pool(s).Cluster.Own < half*8/7+1 {
				return errors.New(s.weft("ipam"))
			}
			return nil
		})
	}
	c.storeDown()
	start("more", "without it")
	alone(2 * half)
	for _, s := range c.sites {
		found := 0
		for _, f := range pool(s).Foreigners {
			if !foreign(f.Address) || f.MAC != mac || f.Held {
				c.Errorf("%s shows %+v; the machine is %s", s.Host.Name, f, mac)
			}
			found++
		}
		if text := s.weft("ipam"); found == 0 || !strings.Contains(text, "(FOREIGN: "+mac+")") {
			c.Errorf("%s shows no address of the machine:\n%s", s.Host.Name, text)
		}
		c.Logf("%s found %d addresses of the machine", s.Host.Name, found)
	}
	c.storeUp()
	const taken = "10.79.1.3"
	c.sites[0].refuse([]string{taken, "a machine that is not weft's"}, "run", "--name", "taken", "--network", "crowd", "--ip", taken, "weft/test:latest", "true")
	c.sites[0].docker("rm", "-f", "taken")
}

package e2e_test

import (
	"fmt"
	"strings"
	"testing"
)

// overlays creates an overlay on every host by its name in the cluster.
func (c *cluster) overlays(name string, args ...string) {
	c.Helper()
	c.all(func(s *site) error {
		_, err := s.Docker(s.Context(), append(append([]string{"network", "create", "-d", plugin, "--ipam-driver", plugin,
			"-o", "mode=overlay", "-o", "net=" + name}, args...), name)...)
		return err
	})
}

// TestOverlay: three hosts, three engines, one subnet of both families.
func TestOverlay(t *testing.T) {
	t.Parallel()
	all := engines()
	c := newCluster(t, clusterConfig{engines: []string{all[0], all[len(all)/2], all[len(all)-1]}, members: 1})
	c.overlays("demo", "--subnet", "10.60.0.0/24", "--ipv6", "--subnet", "fd60::/64")
	c.all(func(s *site) error {
		s.server("web-"+s.Host.Name, "--network", "demo")
		return nil
	})
	c.step("everybody reaches everybody", (*cluster).meshed)
	for _, s := range c.sites {
		if out := s.sh("nft list set bridge weft gw4"); !strings.Contains(out, ". 10.60.0.1 }") {
			s.Errorf("the gateway is not kept out of the tunnel:\n%s", out)
		}
	}
}

// meshed: every container and every host reaches every container.
func (c *cluster) meshed() {
	c.Helper()
	for _, to := range c.sites {
		name := "web-" + to.Host.Name
		for _, addr := range []string{to.ip(name, "demo"), "[" + to.ip6(name, "demo") + "]"} {
			for _, from := range c.sites {
				client := "web-" + from.Host.Name
				from.answers(from.from(client), addr+":80", name)
				from.answers(from.fromHost(), addr+":80", name)
				from.eventually("UDP from "+client+" to "+name, func() error {
					out, err := getUDP(from.from(client), addr+":81")
					if err == nil && !strings.Contains(out, name) {
						err = fmt.Errorf("the answer is %q", out)
					}
					return err
				})
				from.pings(from.from(client), strings.Trim(addr, "[]"))
			}
		}
	}
	for _, s := range c.sites {
		s.pings(s.from("web-"+s.Host.Name), s.out.IPv4.String())
	}
}

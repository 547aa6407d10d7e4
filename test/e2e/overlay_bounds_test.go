package e2e_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/weft-net/weft/test/lab"
)

// TestOverlayRefusals: what cannot be is refused with the reason, and leaves nothing.
func TestOverlayRefusals(t *testing.T) {
	t.Parallel()
	engine := engines()[len(engines())-1]
	c := newCluster(t, clusterConfig{engines: []string{engine}, members: 1})
	c.connected()
	s := c.sites[0]
	s.docker("network", "create", "-d", plugin, "--ipam-driver", plugin, "-o", "mode=overlay", "-o", "com.docker.network.driver.overlay.vxlanid_list=777", "one")
	c.comesTrue("the network's name to be known", func() error {
		n, err := s.state("one")
		if err == nil && n.VNI != 777 {
			err = fmt.Errorf("its VNI is %d", n.VNI)
		}
		return err
	})
	overlay := []string{"network", "create", "-d", plugin, "--ipam-driver", plugin, "-o", "mode=overlay"}
	with := func(args ...string) []string { return append(slices.Clone(overlay), append(args, "two")...) }
	vni := "com.docker.network.driver.overlay.vxlanid_list="
	for _, r := range []struct {
		words []string
		args  []string
	}{
		{[]string{"777 is that of network one", "vxlanid_list"}, with("-o", vni+"777")},
		{[]string{"16777216", "1 to 16777215"}, with("-o", vni+"16777216")},
		{[]string{`"x"`, "1 to 16777215"}, with("-o", vni+"x")},
		{[]string{"1451", "leaves 1450 bytes", "at most 1450"}, with("-o", "com.docker.network.driver.mtu=1451")},
		{[]string{"WireGuard"}, with("-o", "encrypted")},
		{[]string{"domain=host", "collide"}, with("--ipam-opt", "domain=host")},
		{[]string{"--ipam-driver", "collide"}, []string{"network", "create", "-d", plugin, "-o", "mode=overlay", "--subnet", "10.65.0.0/24", "two"}},
		{[]string{"vxlanid_lsit", "vxlanid_list"}, with("-o", "com.docker.network.driver.overlay.vxlanid_lsit=5", "-o", "vxlanid_lsit=5")},
	} {
		s.refuse(r.words, r.args...)
	}
	if all := s.docker("network", "ls", "--format", "{{.Name}}"); strings.Contains(all, "two") {
		t.Errorf("docker network ls:\n%s", all)
	}
	c.comesTrue("nothing to be left of what was refused", func() error {
		keys, err := c.store.Get(c.Context(), "")
		nets := 0
		for key := range keys {
			if strings.Contains("/"+key, "/net/") || strings.Contains("/"+key, "/pools/") {
				nets++
			}
		}
		if err == nil && nets != 2 {
			err = fmt.Errorf("%d records of networks and pools: %v", nets, keys)
		}
		return err
	})
	c.step("the tunnel's port is taken", (*cluster).portTaken)
}

// portTaken: a container on a host where something else has the tunnel's port does not
// start, and the error says what to do; once it is gone it does.
func (c *cluster) portTaken() {
	c.Helper()
	s := c.sites[0]
	other, err := s.Background("socat", "UDP4-RECV:8476", "STDOUT")
	c.must(err)
	defer other.Stop()
	s.eventually("the port to be taken", func() error {
		out, err := s.Run(s.Context(), "ss", "-Hlun", "sport = :8476")
		if err == nil && out == "" {
			err = fmt.Errorf("nobody has it")
		}
		return err
	})
	s.refuse([]string{"UDP port 8476", "is taken"}, "run", "--rm", "--network", "one", lab.Image, "true")
	if left := s.sh("ip -o link show type vxlan; ip -o link show type bridge | grep wf- || :"); left != "" {
		c.Errorf("a device is left: %s", left)
	}
	other.Stop()
	s.docker("run", "--rm", "--network", "one", lab.Image, "true")
}

// TestOverlays: twenty overlays on two hosts, each by itself.
func TestOverlays(t *testing.T) {
	t.Parallel()
	engine := engines()[len(engines())-1]
	c := newCluster(t, clusterConfig{engines: []string{engine, engine}, members: 1})
	c.connected()
	const many = 20
	name := func(i int) string { return fmt.Sprintf("over%d", i) }
	for i := range many {
		c.must(c.sites[0].overlay(name(i), "--subnet", fmt.Sprintf("10.63.%d.0/24", i)))
	}
	for i := range many {
		c.has(name(i), true, c.sites...)
	}
	c.all(func(s *site) error {
		var errs [many]error
		var work sync.WaitGroup
		for i := range many {
			work.Go(func() {
				script := fmt.Sprintf("socat TCP-LISTEN:80,fork,reuseaddr SYSTEM:'echo %s on %s'", name(i), s.Host.Name)
				_, errs[i] = s.Docker(s.Context(), "run", "-d", "--name", name(i), "--network", name(i), lab.Image, "sh", "-c", script)
			})
		}
		work.Wait()
		for _, err := range errs {
			if err != nil {
				return err
			}
		}
		return nil
	})
	h1, h2 := c.sites[0], c.sites[1]
	for i := range many {
		h1.answers(h1.from(name(i)), h2.ip(name(i), name(i))+":80", name(i)+" on h2")
	}
	for i := range 5 { // of the others, here and there
		other := (i + 7) % many
		for _, s := range c.sites {
			if out, err := getSoon(h1.from(name(i)), s.ip(name(other), name(other))+":80"); err == nil && out != "" {
				t.Errorf("%s reaches %s on %s: %s", name(i), name(other), s.Host.Name, out)
			}
		}
	}
	for i := range many {
		for _, s := range c.sites {
			s.docker("rm", "-f", name(i))
		}
		h1.docker("network", "rm", name(i))
		h2.docker("network", "rm", name(i))
	}
	for _, s := range c.sites {
		s.eventually("nothing of them on "+s.Host.Name, func() error {
			if left := s.sh("ip -o link show group 2003133044; ip neigh show nud permanent; nft list tables | grep weft || true"); left != "" {
				return fmt.Errorf("left: %s", left)
			}
			return nil
		})
	}
}

// TestOverlayOfTwoClusters: two clusters on one underlay, with one VNI and one subnet,
// know nothing of each other.
func TestOverlayOfTwoClusters(t *testing.T) {
	t.Parallel()
	engine := engines()[len(engines())-1]
	c := newCluster(t, clusterConfig{engines: []string{engine, engine, engine}, members: 1, later: true})
	c.all(func(s *site) error {
		settings := c.settings()
		for i, text := range settings {
			if strings.HasPrefix(text, "WEFT_STORE=") && s.Host.Name == "h3" {
				settings[i] = text + "/other"
			}
		}
		return s.install(settings...)
	})
	c.connected()
	h1, h2, h3 := c.sites[0], c.sites[1], c.sites[2]
	args := []string{"--subnet", "10.64.0.0/24", "-o", "com.docker.network.driver.overlay.vxlanid_list=4242"}
	c.must(h1.overlay("same", args...))
	c.must(h3.overlay("same", args...))
	c.has("same", true, c.sites...)
	for _, s := range c.sites {
		s.docker("run", "-d", "--name", "web", "--network", "same", lab.Image, "socat", "TCP-LISTEN:80,fork,reuseaddr", "SYSTEM:echo "+s.Host.Name)
	}
	h1.answers(h1.from("web"), h2.ip("web", "same")+":80", "h2")
	for range 3 {
		if out, err := getSoon(h3.from("web"), h1.ip("web", "same")+":80"); err == nil && strings.Contains(out, "h1") || err == nil && strings.Contains(out, "h2") {
			t.Errorf("h3 reaches the other cluster: %s", out)
		}
	}
	if n := h3.sh("ip neigh show nud permanent | grep -vc " + h3.ip("web", "same") + " || true"); strings.TrimSpace(n) != "0" {
		t.Errorf("h3 knows hosts of the other cluster:\n%s", h3.sh("ip neigh show nud permanent"))
	}
}

// TestOverlayOverIPv6: the tunnels of two hosts go over IPv6.
func TestOverlayOverIPv6(t *testing.T) {
	t.Parallel()
	engine := engines()[len(engines())-1]
	c := newCluster(t, clusterConfig{engines: []string{engine, engine}, members: 1, later: true})
	c.all(func(s *site) error { return s.install(append(c.settings(), "WEFT_ADVERTISE="+s.IPv6.String())...) })
	c.overlays("demo", "--subnet", "10.60.0.0/24", "--ipv6", "--subnet", "fd60::/64")
	c.all(func(s *site) error {
		s.server("web-"+s.Host.Name, "--network", "demo")
		return nil
	})
	c.meshed()
	c.transfers()
	c.largest(1430)
	for _, s := range c.sites {
		if hosts := s.weft("hosts"); !strings.Contains(hosts, c.sites[0].IPv6.String()) || !strings.Contains(hosts, c.sites[1].IPv6.String()) {
			t.Errorf("weft hosts:\n%s", hosts)
		}
	}
	c.overlayGone()
}

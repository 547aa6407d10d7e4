package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/internal/engine"
	"github.com/weft-net/weft/test/lab"
)

// TestNetworkSync: what is made on one host is on all, and what is removed stays away.
func TestNetworkSync(t *testing.T) {
	t.Parallel()
	all := engines()
	c := newCluster(t, clusterConfig{engines: []string{all[0], all[len(all)/2], all[len(all)-1]}, members: 1})
	c.connected()
	c.step("it appears with all that it is", (*cluster).appears)
	c.step("removed on one host", (*cluster).removedHere)
	c.step("removed everywhere", (*cluster).removedEverywhere)
	c.step("a name that is taken", (*cluster).foreignName)
	c.step("made on two hosts in the same second", (*cluster).sameSecond)
	c.step("removed while a host is off", (*cluster).removedWhileOff)
	c.step("removed while a host is cut off", (*cluster).removedWhileCut)
	c.step("an engine that lost its state", (*cluster).engineEmptied)
	c.step("many at once", (*cluster).manyAtOnce)
	c.step("removed while weft does not run", (*cluster).removedUnseen)
}

// TestNetworkSyncService: each host creates the network under its own name of the driver,
// and one that cannot ask its engine takes part by -o net=NAME.
func TestNetworkSyncService(t *testing.T) {
	t.Parallel()
	engine := engines()[len(engines())-1]
	c := newCluster(t, clusterConfig{engines: []string{engine, engine, engine}, members: 1, noPlugin: true})
	h1, h2, h3 := c.sites[0], c.sites[1], c.sites[2]
	c.must(h1.InstallPlugin(c.Context(), pluginDir(t), c.settings()...))
	for _, s := range c.sites {
		c.must(s.CopyIn(c.Context(), "../../build/weft-"+goarch(t), "/usr/bin/weft"))
	}
	h2.serviceWith(c.settings())
	h3.serviceWith(c.settings(), "--engine", "/run/nowhere.sock")
	c.connectedTo(h1)
	c.must(h1.overlay("mixed", "--subnet", "10.71.0.0/24"))
	c.has("mixed", true, h2)
	if n, err := h2.listed("mixed"); err != nil || n.Driver != "weft" || n.IPAM.Driver != "weft" {
		t.Errorf("%+v %v", n, err)
	}
	h2.isState("mixed", "present")
	if out := h3.weft("status"); !strings.Contains(out, "Network sync:") || !strings.Contains(out, "/run/nowhere.sock") ||
		!strings.Contains(out, "the names of this host's containers are not known to other hosts") {
		t.Errorf("weft status without the Docker API:\n%s", out)
	}
	if n, err := h3.listed("mixed"); err != nil || n != nil {
		t.Errorf("%+v %v", n, err)
	}
	h3.docker("network", "create", "-d", "weft", "--ipam-driver", "weft", "-o", "mode=overlay", "-o", "net=mixed", "--subnet", "10.71.0.0/24", "mine")
	h3.isState("mixed", "present")
	h2.server("web", "--network", "mixed")
	h3.run("client", "--network", "mine")
	h3.answers(h3.from("client"), hostPort(h2.ip("web", "mixed"), 80), "web")
	c.byName(h1, h3)
	// And back: what the service makes, the plugin's host has.
	h2.docker("network", "create", "-d", "weft", "--ipam-driver", "weft", "-o", "mode=overlay", "back")
	c.has("back", true, h1)
	if n, err := h1.listed("back"); err != nil || n.Driver != plugin {
		t.Errorf("%+v %v", n, err)
	}
}

// byName: a host that cannot ask its engine takes part in a network without knowing its
// subnets, and may be the first to have one.
func (c *cluster) byName(h1, h3 *site) {
	c.Helper()
	join := func(name string, more ...string) []string {
		return append([]string{"network", "create", "-d", "weft", "--ipam-driver", "weft", "-o", "mode=overlay", "-o", "net=" + name, "--ipam-opt", "net=" + name}, append(more, name)...)
	}
	c.must(h1.overlay("auto"))
	c.must(h1.overlay("dual", "--ipv6", "--subnet", "10.73.0.0/24", "--subnet", "fd73::/64"))
	for _, name := range []string{"auto", "dual"} {
		c.comesTrue(name+" to have its name", func() error { _, err := h3.state(name); return err })
	}
	h3.refuse([]string{"network auto", "no IPv6 subnet"}, join("auto", "--ipv6")...)
	h3.docker(join("auto")...)
	h3.docker(join("dual", "--ipv6")...)
	h1.server("named", "--network", "auto")
	h3.run("asks", "--network", "auto")
	h3.answers(h3.from("asks"), hostPort(h1.ip("named", "auto"), 80), "named")
	for _, name := range []string{"auto", "dual"} {
		there, err := h1.listed(name)
		c.must(err)
		here, err := h3.listed(name)
		c.must(err)
		if got, want := subnetsOf(here), subnetsOf(there); got != want {
			c.Errorf("%s has %s on h1 and %s on h3", name, want, got)
		}
	}
	// The first of its name: any subnet will do, and then it is the network's.
	h3.docker(join("first")...)
	h1.isState("first", "absent")
	c.must(h1.overlay("first", "-o", "net=first", "--ipam-opt", "net=first"))
	h1.isState("first", "present")
}

func subnetsOf(n *engine.Network) string {
	var out []string
	for _, s := range n.IPAM.Config {
		out = append(out, s.Subnet)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// overlay creates an overlay on one host, as a user does.
func (s *site) overlay(name string, args ...string) error {
	_, err := s.command(append(append([]string{"network", "create", "-d", plugin, "--ipam-driver", plugin, "-o", "mode=overlay"}, args...), name)...)
	return err
}

// listed is a network as the engine lists it; nil if it has none of that name.
func (s *site) listed(name string) (*engine.Network, error) {
	answer, err := s.api().Call(s.Context(), http.MethodGet, "/networks", nil)
	if err != nil {
		return nil, err
	}
	var list []engine.Network
	if err := json.Unmarshal([]byte(answer), &list); err != nil {
		return nil, err
	}
	var found *engine.Network
	for _, n := range list {
		if n.Name == name && found != nil {
			return nil, fmt.Errorf("the engine has two networks %s", name)
		}
		if n.Name == name {
			found = &n
		}
	}
	return found, nil
}

// state is how a host's weft shows a network of the cluster.
func (s *site) state(name string) (admin.ClusterNetwork, error) {
	out, err := s.Run(s.Context(), "weft", "network", "ls", "--json")
	if err != nil {
		return admin.ClusterNetwork{}, err
	}
	var list []admin.ClusterNetwork
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return admin.ClusterNetwork{}, err
	}
	i := slices.IndexFunc(list, func(n admin.ClusterNetwork) bool { return n.Name == name })
	if i < 0 {
		return admin.ClusterNetwork{}, fmt.Errorf("%s: weft network ls lacks %s", s.Host.Name, name)
	}
	return list[i], nil
}

// isState waits until a host shows a network in a state.
func (s *site) isState(name, state string) {
	s.Helper()
	s.comesBack(name+" to be "+state+" on "+s.Host.Name, func() error {
		n, err := s.state(name)
		if err == nil && n.State != state {
			err = fmt.Errorf("it is %s: %s", n.State, n.Why)
		}
		return err
	})
}

// has waits until the engines of hosts have a network, or none of that name.
func (c *cluster) has(name string, want bool, sites ...*site) {
	c.Helper()
	for _, s := range sites {
		c.comesTrue(fmt.Sprintf("network %s on %s: %t", name, s.Host.Name, want), func() error {
			n, err := s.listed(name)
			if err == nil && (n != nil) != want {
				err = errors.New("not yet")
			}
			return err
		})
	}
}

// equal makes sure that the engines of all hosts were told the same of a network.
func (c *cluster) equal(name string) {
	c.Helper()
	var first string
	for _, s := range c.sites {
		n, err := s.listed(name)
		c.must(err)
		if n == nil {
			c.Fatalf("%s has no network %s", s.Host.Name, name)
		}
		n.ID, n.EnableIPv4 = "", nil
		options := maps.Clone(n.Options)
		delete(options, "net")
		n.Options = options
		text, err := json.MarshalIndent(n, "", " ")
		c.must(err)
		switch {
		case first == "":
			first = string(text)
		case first != string(text):
			c.Errorf("%s has\n%s\nand %s\n%s", c.sites[0].Host.Name, first, s.Host.Name, text)
		}
	}
}

func (c *cluster) appears() {
	h1 := c.sites[0]
	begin := time.Now()
	c.must(h1.overlay("full", "--subnet", "10.61.0.0/24", "--ip-range", "10.61.0.128/25", "--gateway", "10.61.0.9", "--aux-address", "printer=10.61.0.200",
		"--ipv6", "--subnet", "fd61::/64", "--attachable", "--label", "com.docker.compose.network=full", "--label", "com.docker.compose.project=shop",
		"--label", "com.docker.compose.version=2.40", "-o", "com.docker.network.driver.mtu=1300", "-o", "publish=native"))
	made := time.Now()
	var wg sync.WaitGroup
	for _, s := range c.sites[1:] {
		wg.Go(func() {
			for time.Since(made) < time.Minute {
				if n, err := s.listed("full"); err == nil && n != nil {
					c.Logf("%s (%s) has it %v after the command on h1 ended, which took %v", s.Host.Name, s.engine,
						time.Since(made).Round(time.Millisecond), made.Sub(begin).Round(time.Millisecond))
					return
				}
			}
		})
	}
	wg.Wait()
	c.has("full", true, c.sites...)
	c.equal("full")
	for _, s := range c.sites {
		s.isState("full", "present")
	}
	c.must(h1.overlay("plain"))
	c.has("plain", true, c.sites...)
	c.equal("plain")
	for _, s := range c.sites {
		s.server("web-"+s.Host.Name, "--network", "plain")
	}
	for _, to := range c.sites {
		for _, from := range c.sites {
			from.answers(from.from("web-"+from.Host.Name), hostPort(to.ip("web-"+to.Host.Name, "plain"), 80), "web-"+to.Host.Name)
		}
	}
	for _, s := range c.sites {
		s.docker("rm", "-f", "web-"+s.Host.Name)
	}
	c.must(h1.overlay("inside", "--internal", "--subnet", "10.62.0.0/24"))
	c.has("inside", true, c.sites...)
	for _, s := range c.sites {
		if n, err := s.listed("inside"); err != nil || !n.Internal {
			c.Errorf("%s: %+v %v", s.Host.Name, n, err)
		}
	}
}

// removedHere: neither time nor restarts bring it back, only the user.
func (c *cluster) removedHere() {
	h1, h2, h3 := c.sites[0], c.sites[1], c.sites[2]
	away := func(after string) {
		c.Helper()
		h3.isState("full", "absent")
		if n, err := h3.listed("full"); err != nil || n != nil {
			c.Errorf("it is back %s: %v %v", after, n, err)
		}
	}
	h3.docker("network", "rm", "full")
	away("at once")
	h3.docker("network", "prune", "-f")
	h3.isState("plain", "absent")
	h3.isState("inside", "absent")
	c.must(h3.KillPlugin(c.Context()))
	c.connectedTo(h3)
	away("after a crash of weft")
	_, err := h3.RestartEngine(c.Context())
	c.must(err)
	c.connectedTo(h3)
	away("after a restart of the engine")
	c.has("full", true, h1, h2)
	// By its name it is the cluster's again, with other settings as well.
	c.must(h3.overlay("full", "--subnet", "10.61.0.0/24", "--ipv6", "--subnet", "fd61::/64", "-o", "com.docker.network.driver.mtu=1300"))
	h3.isState("full", "present")
	c.must(h3.overlay("plain"))
	h3.isState("plain", "present")
	c.equal("plain")
	c.has("full", true, c.sites...)
	// So it is by -o net=NAME, which needs no look at the engine.
	h3.docker("network", "rm", "plain")
	h3.isState("plain", "absent")
	plain, err := h1.listed("plain")
	c.must(err)
	c.must(h3.overlay("plain", "-o", "net=plain", "--subnet", plain.IPAM.Config[0].Subnet))
	h3.isState("plain", "present")
}

// connectedTo waits until weft of a host uses the store.
func (c *cluster) connectedTo(s *site) {
	c.Helper()
	c.comesTrue(s.Host.Name+" to use the store", s.storeServes)
}

func (c *cluster) removedEverywhere() {
	h1, h2, h3 := c.sites[0], c.sites[1], c.sites[2]
	h2.run("user", "--network", "full")
	c.comesTrue("the use to be known", func() error {
		out, err := h1.Run(h1.Context(), "weft", "network", "rm", "full")
		if err == nil {
			c.Fatalf("a network in use was removed: %s", out)
		}
		if !strings.Contains(err.Error(), "h2 1") {
			return err
		}
		return nil
	})
	h2.docker("rm", "-f", "user")
	c.comesTrue("the removal", func() error {
		_, err := h3.Run(h3.Context(), "weft", "network", "rm", "full")
		return err
	})
	c.has("full", false, c.sites...)
	for _, name := range []string{"plain", "inside"} {
		h1.weft("network", "rm", name)
		c.has(name, false, c.sites...)
	}
	c.noNetworks()
}

// noNetworks waits until the store has nothing of networks.
func (c *cluster) noNetworks() {
	c.Helper()
	c.comesTrue("the records of networks to go", func() error {
		keys, err := c.store.Get(c.Context(), "")
		if err != nil {
			return err
		}
		for key := range keys {
			for _, kind := range []string{"/net/", "/name/", "/vni/", "/ep/"} {
				if strings.Contains("/"+key, kind) {
					return fmt.Errorf("%s is there", key)
				}
			}
		}
		return nil
	})
}

// foreignName: a host whose engine has a network of that name keeps it.
func (c *cluster) foreignName() {
	h1, h2, h3 := c.sites[0], c.sites[1], c.sites[2]
	h2.docker("network", "create", "--subnet", "10.63.0.0/24", "taken")
	c.must(h1.overlay("taken", "--subnet", "10.64.0.0/24"))
	c.has("taken", true, h3)
	h2.isState("taken", "conflict")
	if n, err := h2.listed("taken"); err != nil || n.Driver != "bridge" {
		c.Errorf("%+v %v", n, err)
	}
	h2.docker("network", "rm", "taken")
	h2.isState("taken", "present")
	c.equal("taken")
	h1.weft("network", "rm", "taken")
	c.has("taken", false, c.sites...)
}

// twin creates an overlay that another host creates at this moment: weft may have made
// it here before the engine comes to it, or while it does.
func (s *site) twin(name string, args ...string) error {
	err := s.overlay(name, args...)
	if err == nil || !strings.Contains(err.Error(), "already exists") && !strings.Contains(err.Error(), "overlaps") {
		return err
	}
	ctx, cancel := context.WithTimeout(s.Context(), 10*time.Second)
	defer cancel()
	return lab.Until(ctx, name+" to be there", func(context.Context) error {
		n, listErr := s.listed(name)
		if listErr == nil && n == nil {
			listErr = err
		}
		return listErr
	})
}

// sameSecond: one network comes of it, whichever host is faster.
func (c *cluster) sameSecond() {
	h1, h2 := c.sites[0], c.sites[1]
	for i, args := range [][]string{{"--subnet", "10.65.0.0/24"}, nil} {
		name := fmt.Sprintf("twin%d", i)
		c.all(func(s *site) error {
			if s.Host.Name == "h3" {
				return nil
			}
			return s.twin(name, args...)
		})
		for _, s := range c.sites {
			s.isState(name, "present")
		}
		c.has(name, true, c.sites...)
		c.equal(name)
	}
	// Containers that start at once live on: the loser's network becomes the winner's.
	c.all(func(s *site) error {
		if s.Host.Name == "h3" {
			return nil
		}
		if err := s.twin("twins", "--subnet", "10.66.0.0/24"); err != nil {
			return err
		}
		_, err := s.Docker(s.Context(), "run", "-d", "--name", "twin", "--network", "twins", lab.Image, "sh", "-c",
			"socat TCP4-LISTEN:80,fork,reuseaddr SYSTEM:'echo twin on "+s.Host.Name+"'")
		return err
	})
	for _, s := range c.sites {
		s.isState("twins", "present")
	}
	h1.answers(h1.from("twin"), hostPort(h2.ip("twin", "twins"), 80), "twin on h2")
	h2.answers(h2.from("twin"), hostPort(h1.ip("twin", "twins"), 80), "twin on h1")
	h1.answers(h1.fromHost(), hostPort(h2.ip("twin", "twins"), 80), "twin on h2")
	for _, s := range []*site{h1, h2} {
		s.pings(s.from("twin"), s.out.IPv4.String())
		s.docker("rm", "-f", "twin")
	}
	for _, name := range []string{"twin0", "twin1", "twins"} {
		c.comesTrue("the removal of "+name, func() error {
			_, err := h1.Run(h1.Context(), "weft", "network", "rm", name)
			return err
		})
		c.has(name, false, c.sites...)
	}
	c.noNetworks()
}

// removedWhileOff: a host that comes back takes the network down, whatever it had on it,
// and its subnet is free then.
func (c *cluster) removedWhileOff() {
	h1, h3 := c.sites[0], c.sites[2]
	c.must(h1.overlay("gone", "--subnet", "10.67.0.0/24"))
	c.has("gone", true, h3)
	h3.docker("run", "-d", "--restart", "always", "--name", "stays", "--network", "gone", lab.Image, "sleep", "infinity")
	c.must(h3.PowerOff(c.Context()))
	h1.weft("network", "ls")
	if out, err := h1.Run(c.Context(), "weft", "network", "rm", "gone"); err == nil || !strings.Contains(err.Error(), "h3 1") {
		c.Errorf("what a host that is off uses was removed: %s %v", out, err)
	}
	c.must(h3.Boot(c.Context()))
	c.connectedTo(h3)
	h3.docker("stop", "-t0", "stays")
	c.comesTrue("its endpoint to be gone", func() error {
		keys, err := c.store.Get(c.Context(), "")
		for key, value := range keys {
			if strings.Contains(key, "ep/") && !strings.Contains(value, `"own":true`) {
				err = errors.Join(err, fmt.Errorf("%s is there", key))
			}
		}
		return err
	})
	c.must(h3.PowerOff(c.Context()))
	h1.weft("network", "rm", "gone")
	c.has("gone", false, c.sites[:2]...)
	c.comesTrue("the removal to wait for h3 alone", func() error {
		n, err := h1.state("gone")
		if err == nil && (n.State != "removed" || !slices.Equal(n.Hosts, []string{"h3"})) {
			err = fmt.Errorf("%+v", n)
		}
		return err
	})
	if out := h1.weft("network", "ls"); !strings.Contains(out, "removed: waits for h3") {
		c.Errorf("weft network ls:\n%s", out)
	}
	c.must(h3.Boot(c.Context()))
	c.has("gone", false, h3)
	c.noNetworks()
}

// removedWhileCut: a container that nobody could know of loses the network, and the
// host goes on with what the others have.
func (c *cluster) removedWhileCut() {
	h1, h3 := c.sites[0], c.sites[2]
	c.overlays("cut", "--subnet", "10.68.0.0/24")
	c.must(h3.CutLink(c.Context()))
	h3.run("hidden", "--network", "cut")
	c.comesTrue("the removal", func() error {
		_, err := h1.Run(c.Context(), "weft", "network", "rm", "cut")
		return err
	})
	c.has("cut", false, c.sites[:2]...)
	if n, err := h3.listed("cut"); err != nil || n == nil {
		c.Errorf("h3 took down what it could not know of: %v %v", n, err)
	}
	c.must(h3.HealLink(c.Context()))
	c.has("cut", false, h3)
	if got := h3.inspect("hidden", "{{.State.Running}} {{len .NetworkSettings.Networks}}"); got != "true 0" {
		c.Errorf("the container runs, and has networks: %s", got)
	}
	h3.docker("rm", "-f", "hidden")
	c.overlays("cut", "--subnet", "10.68.0.0/24")
	h1.weft("network", "rm", "cut")
	c.has("cut", false, c.sites...)
	c.noNetworks()
}

// engineEmptied: an engine without its networks gets those of the cluster again.
func (c *cluster) engineEmptied() {
	h1, h3 := c.sites[0], c.sites[2]
	c.overlays("kept", "--subnet", "10.69.0.0/24")
	before, err := h3.listed("kept")
	c.must(err)
	c.must(h3.StopEngine(c.Context()))
	h3.sh("rm -rf /var/lib/docker/network/files")
	_, err = h3.StartEngine(c.Context())
	c.must(err)
	c.has("kept", true, h3)
	after, err := h3.listed("kept")
	c.must(err)
	if before.ID == after.ID {
		c.Errorf("the engine kept network %s", after.ID)
	}
	c.equal("kept")
	h1.server("web", "--network", "kept")
	h3.run("client", "--network", "kept")
	h3.answers(h3.from("client"), hostPort(h1.ip("web", "kept"), 80), "web")
	h1.docker("rm", "-f", "web")
	h3.docker("rm", "-f", "client")
	c.comesTrue("the removal", func() error {
		_, err := h3.Run(c.Context(), "weft", "network", "rm", "kept")
		return err
	})
	c.has("kept", false, c.sites...)
	c.noNetworks()
}

// manyAtOnce: twenty networks, made as fast as one host can.
func (c *cluster) manyAtOnce() {
	const many = 20
	h1 := c.sites[0]
	begin := time.Now()
	for i := range many {
		c.must(h1.overlay(fmt.Sprintf("many%d", i), "--subnet", fmt.Sprintf("10.70.%d.0/24", i)))
	}
	made := time.Since(begin)
	for i := range many {
		c.has(fmt.Sprintf("many%d", i), true, c.sites...)
	}
	c.Logf("%d networks: made in %v, on all hosts after %v", many, made.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
	for i := range many {
		h1.weft("network", "rm", fmt.Sprintf("many%d", i))
	}
	for i := range many {
		c.has(fmt.Sprintf("many%d", i), false, c.sites...)
	}
	c.noNetworks()
}

// removedUnseen: weft learns of it when it runs again.
func (c *cluster) removedUnseen() {
	h1, h3 := c.sites[0], c.sites[2]
	c.overlays("unseen", "--subnet", "10.72.0.0/24")
	h3.isState("unseen", "present")
	c.must(h3.DisablePlugin(c.Context(), true))
	begin := time.Now()
	h3.docker("network", "rm", "unseen")
	c.Logf("docker network rm without weft took %v", time.Since(begin).Round(time.Second))
	c.must(h3.EnablePlugin(c.Context()))
	c.connectedTo(h3)
	h3.isState("unseen", "absent")
	c.has("unseen", false, h3)
	h1.weft("network", "rm", "unseen")
	c.has("unseen", false, c.sites...)
	c.noNetworks()
}

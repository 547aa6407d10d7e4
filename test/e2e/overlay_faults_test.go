package e2e_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	faultNet    = "faulty"
	faultSubnet = "10.62.0.0/24"
)

// TestOverlayFaults: an overlay of three hosts while links, hosts, weft and the store
// fail. What talked goes on; what is new is reached as soon as that is possible.
func TestOverlayFaults(t *testing.T) {
	t.Parallel()
	engine := engines()[len(engines())-1]
	c := newCluster(t, clusterConfig{engines: slices.Repeat([]string{engine}, 3), members: 3})
	c.overlays(faultNet, "--subnet", faultSubnet)
	c.all(func(s *site) error {
		s.echo("echo-"+s.Host.Name, "--network", faultNet, "--restart", "always")
		return nil
	})
	c.chain("echo")
	c.step("weft is killed", (*cluster).weftKilled)
	c.step("the store is away for a minute", (*cluster).storeAway)
	c.step("a member of the store is lost", (*cluster).memberLost)
	c.step("a link is cut", (*cluster).linkCut)
	c.step("a host is off", (*cluster).hostOff)
	c.step("a host boots while the store is away", (*cluster).bootsAlone)
	c.step("the store is wiped", (*cluster).storeWiped)
	c.step("a host says that it is where another one is", (*cluster).sameAddress)
}

// chain: the container of each host reaches that of the next by its address.
func (c *cluster) chain(prefix string) {
	c.Helper()
	for i, from := range c.sites {
		to := c.sites[(i+1)%len(c.sites)]
		name := prefix + "-" + to.Host.Name
		addr := to.ip(name, faultNet)
		c.comesTrue(from.Host.Name+" to reach "+name, func() error {
			out, err := get(from.from("echo-"+from.Host.Name), addr+":80")
			if err == nil && out == "" {
				err = fmt.Errorf("no answer")
			}
			return err
		})
	}
}

// talk opens connections from each host's container to that of the next.
func (c *cluster) talk() []*beat {
	c.Helper()
	beats := []*beat{c.sites[0].control()}
	for i, from := range c.sites {
		to := c.sites[(i+1)%len(c.sites)]
		beats = append(beats, from.beat("echo-"+from.Host.Name, to.ip("echo-"+to.Host.Name, faultNet), 7))
	}
	c.sites[0].alive(beats...)
	return beats
}

func (c *cluster) weftKilled() {
	c.Helper()
	beats := c.talk()
	defer stopBeats(beats)
	c.all(func(s *site) error { return s.KillPlugin(s.Context()) })
	c.sites[0].unharmed(beats...)
	c.connected()
	for _, s := range c.sites {
		s.echo("new-"+s.Host.Name, "--network", faultNet)
	}
	c.chain("new")
	c.sites[0].unharmed(beats...)
	c.removeAll("new")
}

// storeWiped: containers that talk go on, before the recovery and after it.
func (c *cluster) storeWiped() {
	c.Helper()
	beats := c.talk()
	defer stopBeats(beats)
	c.must(c.store.Wipe(c.Context()))
	c.frozen()
	c.chain("echo")
	c.sites[0].unharmed(beats...)
	c.recovers()
	c.entries("echo")
	c.chain("echo")
	c.sites[0].unharmed(beats...)
}

func (c *cluster) removeAll(prefix string) {
	c.Helper()
	c.all(func(s *site) error {
		_, err := s.Docker(s.Context(), "rm", "-f", prefix+"-"+s.Host.Name)
		return err
	})
}

// storeAway: containers start on all hosts without the store, and are reached by the
// hosts of the network at once: what has no entry goes to all of them.
func (c *cluster) storeAway() {
	c.Helper()
	for _, s := range c.sites { // addresses are at hand
		s.docker("run", "--rm", "--network", faultNet, "weft/test:latest", "true")
	}
	beats := c.talk()
	defer stopBeats(beats)
	c.storeDown()
	down := time.Now()
	for _, s := range c.sites {
		s.echo("lone-"+s.Host.Name, "--network", faultNet)
	}
	c.chain("lone")
	select {
	case <-time.After(time.Until(down.Add(time.Minute))):
	case <-c.Context().Done():
	}
	c.sites[0].unharmed(beats...)
	c.storeUp()
	c.chain("lone")
	c.entries("lone")
	c.removeAll("lone")
	c.sites[0].unharmed(beats...)
}

// entries waits until each host has programmed the containers of the others.
func (c *cluster) entries(prefix string) {
	c.Helper()
	for _, s := range c.sites {
		for _, other := range c.sites {
			if other == s {
				continue
			}
			addr := other.ip(prefix+"-"+other.Host.Name, faultNet)
			c.comesTrue(s.Host.Name+" to know "+addr, func() error {
				_, err := s.Run(s.Context(), "sh", "-c", "ip neigh show nud permanent | grep -w "+addr)
				return err
			})
		}
	}
}

func (c *cluster) memberLost() {
	c.Helper()
	beats := c.talk()
	defer stopBeats(beats)
	lost := c.store.Members()[0]
	c.must(c.store.Kill(c.Context(), lost))
	for _, s := range c.sites {
		s.echo("two-"+s.Host.Name, "--network", faultNet)
	}
	c.chain("two")
	c.entries("two")
	c.removeAll("two")
	c.sites[0].unharmed(beats...)
	c.must(c.store.Start(c.Context(), lost))
	c.must(c.store.Await(c.Context()))
}

// linkCut: the others go on; after healing all is as before, with what changed.
func (c *cluster) linkCut() {
	c.Helper()
	h1, h2, h3 := c.sites[0], c.sites[1], c.sites[2]
	control := h1.control()
	line := h2.beat("echo-h2", h3.ip("echo-h3", faultNet), 7)
	h2.alive(line)
	defer stopBeats([]*beat{control, line})
	c.must(h1.CutLink(c.Context()))
	h2.docker("rm", "-f", "echo-h2")
	h2.echo("echo-h2", "--network", faultNet, "--restart", "always")
	h3.echo("late-h3", "--network", faultNet)
	c.comesTrue("h2 to reach what is new on h3", func() error {
		_, err := get(h2.from("echo-h2"), h3.ip("late-h3", faultNet)+":80")
		return err
	})
	h1.echo("late-h1", "--network", faultNet)
	c.must(h1.HealLink(c.Context()))
	for from, to := range map[*site]*site{h1: h3, h3: h1} {
		c.comesTrue(from.Host.Name+" to reach what was new on the other side", func() error {
			_, err := get(from.from("echo-"+from.Host.Name), to.ip("late-"+to.Host.Name, faultNet)+":80")
			return err
		})
	}
	h1.docker("rm", "-f", "late-h1")
	h3.docker("rm", "-f", "late-h3")
	c.chain("echo")
}

// hostOff: a host that was off while an address moved has no stale entry.
func (c *cluster) hostOff() {
	c.Helper()
	h1, h2, h3 := c.sites[0], c.sites[1], c.sites[2]
	h2.echo("moves", "--network", faultNet)
	addr := h2.ip("moves", faultNet)
	c.comesTrue("h1 to reach it on h2", func() error {
		_, err := get(h1.from("echo-h1"), addr+":80")
		return err
	})
	c.must(h1.PowerOff(c.Context()))
	h2.docker("rm", "-f", "moves")
	h3.echo("moves", "--network", faultNet, "--ip", addr)
	c.must(h1.Boot(c.Context()))
	c.comesTrue("h1 to reach it on h3", func() error {
		out, err := get(h1.from("echo-h1"), addr+":80")
		if err == nil && out == "" {
			err = fmt.Errorf("no answer")
		}
		return err
	})
	h3.docker("rm", "-f", "moves")
	c.chain("echo")
}

// bootsAlone: the containers of a host that boots without the store reach those of the
// others, and are reached, before the store is back.
func (c *cluster) bootsAlone() {
	c.Helper()
	h1, h2, h3 := c.sites[0], c.sites[1], c.sites[2]
	c.comesTrue("h1 to remember the others", func() error {
		out, err := h1.Run(h1.Context(), "grep", "-ao", `"vteps":\[[^]]*\]`, "/var/lib/weft/journal.db")
		if err == nil && (!strings.Contains(out, h2.IPv4.String()) || !strings.Contains(out, h3.IPv4.String())) {
			err = fmt.Errorf("it has %s", out)
		}
		return err
	})
	c.storeDown()
	c.must(h1.PowerOff(c.Context()))
	c.must(h1.Boot(c.Context()))
	c.comesTrue("the container of h1 to be back", func() error {
		out, err := h1.Docker(h1.Context(), "inspect", "--format", "{{.State.Running}} {{(index .NetworkSettings.Networks \""+faultNet+"\").IPAddress}}", "echo-h1")
		if err == nil && !strings.Contains(out, "true 10.62.") {
			err = fmt.Errorf("it is %s", out)
		}
		return err
	})
	c.chain("echo")
	for from, to := range map[*site]*site{h1: h3, h2: h1} {
		c.comesTrue(from.Host.Name+" to reach "+to.Host.Name, func() error {
			_, err := get(from.from("echo-"+from.Host.Name), to.ip("echo-"+to.Host.Name, faultNet)+":80")
			return err
		})
	}
	if err := h1.storeServes(); err == nil {
		c.Fatal("the store is there, and nothing was shown")
	}
	c.storeUp()
	c.entries("echo")
	c.chain("echo")
}

// sameAddress: both hosts are named with what to do, the one that has the address sends
// nothing to itself, and the others go on.
func (c *cluster) sameAddress() {
	c.Helper()
	h1, h2, h3 := c.sites[0], c.sites[1], c.sites[2]
	advertise := func(address string) {
		c.Helper()
		c.must(h2.DisablePlugin(c.Context(), true))
		c.must(h2.SetPlugin(c.Context(), "WEFT_ADVERTISE="+address))
		c.must(h2.EnablePlugin(c.Context()))
	}
	beats := []*beat{h1.control(), h1.beat("echo-h1", h3.ip("echo-h3", faultNet), 7)}
	h1.alive(beats...)
	defer stopBeats(beats)
	advertise(h1.IPv4.String())
	const words = "hosts h1 and h2 advertise one address"
	for _, s := range c.sites {
		for _, command := range []string{"hosts", "status"} {
			c.comesTrue("weft "+command+" to show the clash on "+s.Host.Name, func() error {
				out, err := s.Run(s.Context(), "weft", command)
				if err == nil && (!strings.Contains(out, words) || !strings.Contains(out, "WEFT_ADVERTISE")) {
					err = fmt.Errorf("it shows\n%s", out)
				}
				return err
			})
		}
	}
	c.comesTrue("h1 to tunnel to h3 alone", func() error {
		out, err := h1.Run(h1.Context(), "bridge", "fdb", "show")
		if err == nil && (strings.Contains(out, "dst "+h1.IPv4.String()+" ") || strings.Contains(out, "dst "+h2.IPv4.String()+" ") || !strings.Contains(out, "dst "+h3.IPv4.String()+" ")) {
			err = fmt.Errorf("it has\n%s", out)
		}
		return err
	})
	h1.unharmed(beats...)
	advertise("")
	c.comesTrue("the clash to be over", func() error {
		out, err := h1.Run(h1.Context(), "weft", "hosts")
		if err == nil && strings.Contains(out, words) {
			err = fmt.Errorf("it shows\n%s", out)
		}
		return err
	})
	c.chain("echo")
	h1.unharmed(beats...)
}

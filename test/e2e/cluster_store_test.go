package e2e_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/test/lab"
)

// creationLimit is how long a new network may wait for the store, with what the
// engine and a busy machine add.
const creationLimit = patience + 1500*time.Millisecond

// TestClusterStore gives weft stores that are bad in every way: what needs the
// store fails with the reason, everything else goes on.
func TestClusterStore(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterConfig{
		engines: []string{lab.DefaultEngine, lab.DefaultEngine}, members: 3,
		store: lab.StoreConfig{TLS: true, Auth: true, Quota: 16 << 20},
	})
	const subnet = "10.88.0.0/24"
	c.networks("old", "--subnet", subnet)
	for _, s := range c.sites {
		s.server("server", "--network", "old")
		s.run("client", "--network", "old")
	}
	c.agree("old", subnet)
	backup, err := c.store.Snapshot(t.Context())
	c.must(err)
	// Newer than the backup.
	c.networks("newer", "--subnet", "10.89.0.0/24")
	c.all(func(s *site) error { return s.crowd("newer", "newer", 3) })

	c.step("stopped", func(c *cluster) {
		c.storeDown()
		c.bad("old")
		c.storeUp()
		c.agree("old", subnet)
	})
	c.step("hung", func(c *cluster) {
		c.must(c.store.Pause(c.Context()))
		c.bad("old")
		c.must(c.store.Resume(c.Context()))
		c.connected()
	})
	c.step("unreachable at the start", func(c *cluster) {
		c.storeDown()
		c.all(func(s *site) error { return s.restartPlugin() })
		c.bad("old")
		c.storeUp()
	})
	c.step("wrong password", func(c *cluster) {
		c.all(func(s *site) error { return s.restartPlugin("WEFT_STORE_PASSWORD=wrong") })
		c.bad("old", "WEFT_STORE_PASSWORD")
		c.all(func(s *site) error { return s.restartPlugin(c.settings()...) })
		c.connected()
	})
	c.step("read-only", func(c *cluster) {
		c.must(c.store.Fill(c.Context()))
		c.bad("old", "space")
		c.must(c.store.Drain(c.Context()))
		c.connected()
	})
	c.step("restored from an old backup", func(c *cluster) {
		c.must(c.store.Restore(c.Context(), backup))
		c.frozen()
		c.bad("old", "weft store recover")
		c.recovers()
		c.agree("newer", "10.89.0.0/24")
	})
	c.step("wiped", func(c *cluster) {
		c.must(c.store.Wipe(c.Context()))
		c.frozen()
		c.bad("old", "weft store recover")
		c.recovers()
	})
	c.agree("old", subnet)
	c.agree("newer", "10.89.0.0/24")
}

// restartPlugin disables the plugin under running containers, and enables it
// with other settings.
func (s *site) restartPlugin(settings ...string) error {
	if err := s.DisablePlugin(s.Context(), true); err != nil {
		return err
	}
	if len(settings) > 0 {
		if err := s.SetPlugin(s.Context(), settings...); err != nil {
			return err
		}
	}
	return s.EnablePlugin(s.Context())
}

// bad makes sure that with a bad store containers go on and start, that a new
// network is refused in time because of the store, and that `weft store status`
// knows why; words are those of the reason.
func (c *cluster) bad(network string, words ...string) {
	c.Helper()
	for _, s := range c.sites {
		s.answers(s.inside("client"), hostPort(s.ip("server", network), 80), "server")
		s.quick("restart", "-t0", "client")
		s.quick("run", "-d", "--name", "another", "--network", network, lab.Image, "sleep", "infinity")
		s.answers(s.inside("another"), hostPort(s.ip("server", network), 80), "server")
		s.quick("rm", "-f", "another")
		for _, args := range [][]string{{"--subnet", "10.90.0.0/24"}, nil} {
			create := append([]string{"network", "create", "-d", plugin, "--ipam-driver", plugin}, args...)
			s.refuseWithin(creationLimit, append([]string{"store"}, words...), append(create, "refused")...)
		}
		// The status may end with a status of failure.
		status := s.sh("weft store status 2>&1 || :")
		for _, w := range append(words, "store") {
			if !strings.Contains(strings.ToLower(status), strings.ToLower(w)) {
				s.Errorf("%s: weft store status lacks %q:\n%s", s.Host.Name, w, status)
			}
		}
		s.Logf("%s: %s", s.Host.Name, status)
		// Networks of the engine's own address book do not need the store.
		s.quick("network", "create", "-d", plugin, "own")
		s.quick("network", "rm", "own")
	}
}

// frozen waits until all hosts have seen that the store is another one.
func (c *cluster) frozen() {
	c.Helper()
	for _, s := range c.sites {
		c.comesTrue(s.Host.Name+" to freeze", func() error {
			if status := s.sh("weft store status 2>&1 || :"); !strings.Contains(status, "weft store recover") {
				return errors.New(status)
			}
			return nil
		})
	}
}

// recovers lets an operator recover the store on one host, once.
func (c *cluster) recovers() {
	c.Helper()
	before := make([]string, len(c.sites))
	for i, s := range c.sites {
		before[i] = asText(s.books())
	}
	c.sites[0].weft("store", "recover")
	c.connected()
	for i, s := range c.sites {
		if err := same(before[i], asText(s.books())); err != nil {
			s.Errorf("%s: what was promised before the recovery: %v", s.Host.Name, err)
		}
	}
}

// books are the addresses in use by pool.
func (s *site) books() map[string]string {
	s.Helper()
	out := map[string]string{}
	for _, p := range weftJSON[[]admin.Pool](s, "ipam") {
		out[p.Subnet.String()] = fmt.Sprint(addrs(s.used(p.Subnet.String())))
	}
	return out
}

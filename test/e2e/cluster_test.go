package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/test/lab"
)

// cluster is several hosts with weft that share a store.
type cluster struct {
	testing.TB
	lab   *lab.Lab
	store *lab.Store
	sites []*site
}

// clusterConfig says what a cluster consists of.
type clusterConfig struct {
	// engines has the engine of each host.
	engines []string
	// members is how many hosts without an engine carry the store; if there are
	// none, each host with an engine has a member.
	members int
	// store says how the store is; its Members are filled in.
	store lab.StoreConfig
	// daemonJSON is that of all engines.
	daemonJSON string
	// noPlugin makes hosts without the plugin; later leaves it to the story to set it up.
	noPlugin, later bool
}

// newCluster starts hosts h1, h2 ..., the store, and weft with its settings.
func newCluster(t testing.TB, cfg clusterConfig) *cluster {
	t.Helper()
	var hosts []lab.HostConfig
	for i, e := range cfg.engines {
		hosts = append(hosts, lab.HostConfig{Name: fmt.Sprintf("h%d", i+1), Engine: e, DaemonJSON: cfg.daemonJSON, Light: true})
		if !cfg.noPlugin {
			hosts[i].Plugin = pluginDir(t)
		}
	}
	for i := range cfg.members {
		hosts = append(hosts, lab.HostConfig{Name: fmt.Sprintf("s%d", i+1), NoEngine: true})
	}
	l := lab.New(t, lab.Config{Hosts: hosts})
	n := len(cfg.engines)
	cfg.store.Members = l.Hosts[:n]
	if cfg.members > 0 {
		cfg.store.Members = l.Hosts[n:]
	}
	store, err := lab.StartStore(t.Context(), cfg.store)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{TB: t, lab: l, store: store}
	for i, h := range l.Hosts[:n] {
		c.sites = append(c.sites, &site{TB: t, Host: h, lab: l, out: l.Outside, engine: cfg.engines[i]})
	}
	t.Cleanup(c.tellOfFailure)
	if !cfg.noPlugin && !cfg.later {
		c.all(func(s *site) error { return s.install(c.settings()...) })
	}
	return c
}

func (c *cluster) tellOfFailure() {
	if !c.Failed() {
		return
	}
	for _, s := range c.sites {
		log, err := s.PluginLog(context.Background())
		c.Logf("%s: log of the plugin (%v):\n%s", s.Host.Name, err, tail(log, 60))
	}
}

// settings are those of the store, as `docker plugin set` takes them.
func (c *cluster) settings() []string {
	var out []string
	set := c.store.Settings()
	for _, name := range slices.Sorted(maps.Keys(set)) {
		out = append(out, name+"="+set[name])
	}
	return out
}

// install sets up the plugin that the host came with, and puts the operator's command on
// the host.
func (s *site) install(settings ...string) error {
	if err := s.SetUpPlugin(s.Context(), settings...); err != nil {
		return err
	}
	return s.CopyIn(s.Context(), "../../build/weft-"+goarch(s.TB), "/usr/local/bin/weft")
}

// all does something on all hosts at once.
func (c *cluster) all(do func(*site) error) {
	c.Helper()
	errs := make([]error, len(c.sites))
	var wg sync.WaitGroup
	for i, s := range c.sites {
		wg.Go(func() {
			if err := do(s); err != nil {
				errs[i] = fmt.Errorf("%s: %w", s.Host.Name, err)
			}
		})
	}
	wg.Wait()
	c.must(errors.Join(errs...))
}

func (c *cluster) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// on is the same cluster for a subtest.
func (c *cluster) on(t testing.TB) *cluster {
	out := *c
	out.TB, out.sites = t, nil
	for _, s := range c.sites {
		out.sites = append(out.sites, s.on(t))
	}
	return &out
}

func (c *cluster) run(name string, do func(*testing.T)) bool {
	c.Helper()
	t, ok := c.TB.(*testing.T)
	if !ok {
		c.Fatalf("step %s: a benchmark has no steps", name)
	}
	return t.Run(name, do)
}

// step is a part of a story. What follows a part that failed is not told: it
// would only wait for what is broken.
func (c *cluster) step(name string, do func(*cluster)) {
	c.Helper()
	if !c.run(name, func(t *testing.T) { do(c.on(t)) }) {
		c.FailNow()
	}
}

// steps is a part of a story that is told on all hosts at once. The parts are not
// parallel tests: those would wait behind all other stories, and three hosts with them.
func (c *cluster) steps(name string, do func(*site)) {
	c.Helper()
	ok := c.run(name, func(t *testing.T) {
		var wg sync.WaitGroup
		for _, s := range c.sites {
			wg.Go(func() {
				t.Run(s.Host.Name+" "+s.engine, func(t *testing.T) { do(s.on(t)) })
			})
		}
		wg.Wait()
	})
	if !ok {
		c.FailNow()
	}
}

// comesTrue repeats for as long as a new leader, a new session and a busy
// machine may take.
func (c *cluster) comesTrue(what string, try func() error) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
	defer cancel()
	if err := lab.Until(ctx, what, func(context.Context) error { return try() }); err != nil {
		c.Fatal(err)
	}
}

// storeDown ends all members at once.
func (c *cluster) storeDown() {
	c.Helper()
	c.must(c.store.Kill(c.Context()))
}

// storeUp starts them again, and waits until weft on all hosts uses the store.
func (c *cluster) storeUp() {
	c.Helper()
	c.must(c.store.Start(c.Context()))
	c.must(c.store.Await(c.Context()))
	c.connected()
}

// connected waits until weft on all hosts uses the store.
func (c *cluster) connected() {
	c.Helper()
	for _, s := range c.sites {
		c.comesTrue(s.Host.Name+" to use the store", s.storeServes)
	}
}

// storeServes makes a network, which needs the store, and takes it away. Its subnet is one
// that nobody else has: the cluster knows of it for a moment longer.
func (s *site) storeServes() error {
	subnet := fmt.Sprintf("10.255.%d.0/24", s.IPv4.As4()[3])
	_, err := s.command("network", "create", "-d", plugin, "--ipam-driver", plugin, "--subnet", subnet, "probe")
	if err == nil {
		_, err = s.command("network", "rm", "probe")
	}
	return err
}

// id is who the host is in the store.
func (s *site) id() string {
	s.Helper()
	return weftJSON[admin.Status](s, "status").HostID
}

// used are the addresses of endpoints that the host's weft shows in a pool.
func (s *site) used(subnet string) map[netip.Addr]bool {
	s.Helper()
	out := map[netip.Addr]bool{}
	for _, p := range weftJSON[[]admin.Pool](s, "ipam") {
		if p.Subnet.String() != subnet {
			continue
		}
		for _, a := range p.Addresses {
			if a.Kind == "endpoint" {
				out[a.Address] = true
			}
		}
	}
	return out
}

// held are the addresses that the engine's running containers have on a network.
func (s *site) held(network string) (map[netip.Addr]bool, error) {
	answer, err := s.api().Call(s.Context(), http.MethodGet, "/containers/json", nil)
	if err != nil {
		return nil, err
	}
	var containers []struct {
		ID              string `json:"Id"`
		NetworkSettings struct {
			Networks map[string]struct{ IPAddress string }
		}
	}
	if err := json.Unmarshal([]byte(answer), &containers); err != nil {
		return nil, err
	}
	out := map[netip.Addr]bool{}
	for _, ct := range containers {
		n, ok := ct.NetworkSettings.Networks[network]
		if !ok {
			continue
		}
		a, err := netip.ParseAddr(n.IPAddress)
		if err != nil {
			return nil, fmt.Errorf("container %.12s: %w", ct.ID, err)
		}
		if out[a] {
			return nil, fmt.Errorf("two containers have %v", a)
		}
		out[a] = true
	}
	return out, nil
}

// owners are the owners of a pool's addresses, read from etcd itself: a record
// whose key ends in /own/POOL/ADDRESS covers 64 addresses from that one, and has
// for each host a mask of them.
func (c *cluster) owners(subnet string) (map[netip.Addr]string, error) {
	keys, err := c.store.Get(c.Context(), "")
	if err != nil {
		return nil, err
	}
	prefix := netip.MustParsePrefix(subnet)
	out := map[netip.Addr]string{}
	for key, value := range keys {
		first, err := netip.ParseAddr(path.Base(key))
		if err != nil || !strings.Contains("/"+key, "/own/") || !prefix.Contains(first) {
			continue
		}
		var record struct {
			Own map[string]string `json:"own"`
		}
		if err := json.Unmarshal([]byte(value), &record); err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		for host, text := range record.Own {
			mask, err := strconv.ParseUint(text, 16, 64)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			for a := first; mask != 0; a, mask = a.Next(), mask>>1 {
				if mask&1 == 0 {
					continue
				}
				if other, twice := out[a]; twice {
					return nil, fmt.Errorf("%s and %s both own %v", host, other, a)
				}
				out[a] = host
			}
		}
	}
	return out, nil
}

// agree waits until containers, the books of all hosts and the store say the
// same: who has an address shows it in use, owns it in the store, and is alone.
func (c *cluster) agree(network, subnet string) {
	c.Helper()
	c.comesTrue("all records of "+subnet+" to agree", func() error {
		owners, err := c.owners(subnet)
		if err != nil {
			return err
		}
		whose := map[netip.Addr]string{}
		for _, s := range c.sites {
			if s.PID() == 0 {
				continue
			}
			held, err := s.held(network)
			if err != nil {
				return err
			}
			used := s.used(subnet)
			if !maps.Equal(held, used) {
				return fmt.Errorf("%s: containers have %v, weft says %v", s.Host.Name, addrs(held), addrs(used))
			}
			me := s.id()
			for a := range held {
				if other, twice := whose[a]; twice {
					return fmt.Errorf("%s and %s both use %v", s.Host.Name, other, a)
				}
				whose[a] = s.Host.Name
				if owners[a] != me {
					return fmt.Errorf("%s (%s) uses %v, which %q owns", s.Host.Name, me, a, owners[a])
				}
			}
		}
		return nil
	})
}

func addrs(set map[netip.Addr]bool) []netip.Addr {
	return slices.SortedFunc(maps.Keys(set), netip.Addr.Compare)
}

// crowd starts n containers on a network by the engine's API, eight at a time.
// Their names are prefix0, prefix1 ...
func (s *site) crowd(network, prefix string, n int) error {
	api := s.api()
	errs := make([]error, n)
	next := make(chan int)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range next {
				errs[i] = s.oneOfCrowd(api, network, fmt.Sprintf("%s%d", prefix, i))
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	return errors.Join(errs...)
}

func (s *site) oneOfCrowd(api lab.Caller, network, name string) error {
	_, err := api.Call(s.Context(), http.MethodPost, "/containers/create?name="+name, object{
		"Image": lab.Image, "Cmd": []string{"sleep", "infinity"}, "StopSignal": "KILL",
		"HostConfig": object{"NetworkMode": network, "Runtime": s.Runtime(), "Init": false, "LogConfig": object{"Type": "none"}},
	})
	if err == nil {
		_, err = api.Call(s.Context(), http.MethodPost, "/containers/"+name+"/start", nil)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// refuseWithin runs a docker command that must fail in time with these words.
func (s *site) refuseWithin(limit time.Duration, words []string, args ...string) {
	s.Helper()
	begin := time.Now()
	s.refuse(words, args...)
	took := time.Since(begin)
	s.Logf("%s: docker %s failed after %v", s.Host.Name, strings.Join(args, " "), took.Round(time.Millisecond))
	if took > limit {
		s.Errorf("%s: docker %s failed after %v only", s.Host.Name, strings.Join(args, " "), took)
	}
}

// TestCluster joins hosts of all engines by a store with TLS and users.
func TestCluster(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterConfig{engines: engines(), store: lab.StoreConfig{TLS: true, Auth: true}})
	const subnet = "10.80.0.0/24"
	for _, s := range c.sites {
		s.booked("shared", "--subnet", subnet)
		s.run("one", "--network", "shared")
	}
	c.agree("shared", subnet)
	for _, s := range c.sites {
		if hosts := s.weft("host", "ls"); !strings.Contains(hosts, "h1") || !strings.Contains(hosts, c.sites[len(c.sites)-1].Host.Name) {
			s.Errorf("%s lists the hosts\n%s", s.Host.Name, hosts)
		}
		s.weft("store", "status")
		s.clear("shared")
	}
	c.comesTrue("the pool to go", func() error {
		owners, err := c.owners(subnet)
		if err == nil && len(owners) > 0 {
			err = fmt.Errorf("%d addresses have an owner", len(owners))
		}
		return err
	})
}

// weft runs the operator's command.
func (s *site) weft(args ...string) string {
	s.Helper()
	out, err := s.Run(s.Context(), append([]string{"weft"}, args...)...)
	if err != nil {
		s.Fatal(err)
	}
	return out
}

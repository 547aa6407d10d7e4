package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-net/weft/test/lab"
)

// Each engine is killed leakRounds times, 51 times in all, each time under
// leakAtOnce removals whose ReleaseAddress never comes.
const leakRounds, leakAtOnce = 17, 1

// leakPatience is two answers of the engine more than a minute apart, the second
// when the address is five minutes old, and a round of the collector.
const leakPatience = 5*time.Minute + 3*65*time.Second

// TestClusterLeaks kills the engine between DeleteEndpoint and ReleaseAddress,
// again and again. It waits for minutes, and costs nothing while it does.
func TestClusterLeaks(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterConfig{engines: engines(), members: 3, daemonJSON: liveRestore})
	const subnet = "10.87.0.0/24"
	c.networks("leak", "--subnet", subnet)
	for _, s := range c.sites {
		s.run("stays", "--network", "leak")
	}
	cutters := map[string]*cutter{}
	for _, s := range c.sites {
		cutters[s.Host.Name] = s.interpose()
	}
	c.steps("kills", func(s *site) {
		cut := cutters[s.Host.Name]
		lost := map[netip.Addr]bool{} // on a busy machine the first ones come back before the last kill
		for range leakRounds {
			s.cutShort("leak", cut)
			held, err := s.held("leak")
			s.must(err)
			used := s.used(subnet)
			maps.DeleteFunc(used, func(a netip.Addr, _ bool) bool { return held[a] })
			maps.Copy(lost, used)
		}
		s.Logf("%d of %d addresses were not given back at once", len(lost), leakRounds*leakAtOnce)
		if len(lost) == 0 {
			s.Errorf("no kill came in time: this test tests nothing")
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), leakPatience)
	defer cancel()
	for _, s := range c.sites {
		c.must(lab.Until(ctx, "every address to come back on "+s.Host.Name, func(context.Context) error {
			held, err := s.held("leak")
			if err != nil {
				return err
			}
			if used := s.used(subnet); !maps.Equal(held, used) || len(used) != 1 {
				return fmt.Errorf("containers have %v, weft says %v", addrs(held), addrs(used))
			}
			return nil
		}))
	}
	c.agree("leak", subnet)
	for _, s := range c.sites {
		s.clear("leak")
		s.forgotten()
	}
}

// cutter stands between the engine and the plugin.
type cutter struct {
	mu sync.Mutex
	// armed counts the answers to DeleteEndpoint that are to be held back.
	armed int
	held  chan struct{} // takes one for each that is
	free  chan struct{} // closed when they may go on
}

// arm holds back the next n answers.
func (c *cutter) arm(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed, c.held, c.free = n, make(chan struct{}, n), make(chan struct{})
}

func (c *cutter) disarm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = 0
	close(c.free)
}

// answered is called for every answer of the plugin before the engine gets it.
func (c *cutter) answered(resp *http.Response) error {
	if resp.Request.URL.Path != "/NetworkDriver.DeleteEndpoint" {
		return nil
	}
	c.mu.Lock()
	hold, held, free := c.armed > 0, c.held, c.free
	if hold {
		c.armed--
	}
	c.mu.Unlock()
	if hold {
		held <- struct{}{}
		<-free
	}
	return nil
}

// interpose puts a proxy on the plugin's socket. The engine dials it after its
// next start; live-restore keeps the plugin, and so the socket.
func (s *site) interpose() *cutter {
	s.Helper()
	found, err := filepath.Glob(fmt.Sprintf("/proc/%d/root/run/docker/plugins/*/weft.sock", s.PID()))
	if err != nil || len(found) != 1 {
		s.Fatalf("sockets of weft: %v %v", found, err)
	}
	dir, err := os.Open(filepath.Dir(found[0]))
	s.must(err)
	s.Cleanup(func() { dir.Close() })
	// A path below /proc is longer than the address of a socket may be.
	at := fmt.Sprintf("/proc/self/fd/%d/", dir.Fd())
	s.must(os.Rename(at+"weft.sock", at+"weft.behind"))
	listener, err := net.Listen("unix", at+"weft.sock")
	s.must(err)
	cut := &cutter{}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", at+"weft.behind")
	}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "plugin"})
	proxy.Transport = &http.Transport{DialContext: dial}
	proxy.ModifyResponse = cut.answered
	server := &http.Server{Handler: proxy}
	go func() { _ = server.Serve(listener) }() // until the site is gone
	s.Cleanup(func() { server.Close() })
	s.must(s.KillEngine(s.Context()))
	_, err = s.StartEngine(s.Context())
	s.must(err)
	return cut
}

// cutShort removes containers and kills the engine when weft has deleted their
// endpoints and the engine does not know it yet.
func (s *site) cutShort(network string, cut *cutter) {
	s.Helper()
	s.must(s.crowd(network, "cut", leakAtOnce))
	cut.arm(leakAtOnce)
	api := s.api()
	var wg sync.WaitGroup
	for i := range leakAtOnce {
		wg.Go(func() {
			// The engine dies over it.
			_, _ = api.Call(s.Context(), http.MethodDelete, fmt.Sprintf("/containers/cut%d?force=1", i), nil)
		})
	}
	ctx, cancel := context.WithTimeout(s.Context(), 30*time.Second)
	defer cancel()
	for i := range leakAtOnce {
		select {
		case <-cut.held:
		case <-ctx.Done():
			s.Errorf("only %d endpoints were deleted at once", i)
		}
	}
	s.must(s.KillEngine(s.Context()))
	cut.disarm()
	wg.Wait()
	_, err := s.StartEngine(s.Context())
	s.must(err)
	s.comesBack("the containers to go", func() error {
		left, err := s.Docker(s.Context(), "ps", "-aq", "--filter", "name=cut")
		if err == nil && left != "" {
			_, err = s.Docker(s.Context(), append([]string{"rm", "-f"}, strings.Fields(left)...)...)
			err = errors.Join(err, errors.New("they were there"))
		}
		return err
	})
}

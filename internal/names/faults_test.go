package names

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/weft-net/weft/internal/kernel"
)

// stuck is a view of the names that never answers.
type stuck struct{ release chan struct{} }

func (l stuck) Lookup(string, dnsmessage.Type) *Record {
	<-l.release
	return nil
}

func (l stuck) Reverse(netip.Addr) (string, bool) { return "", false }

// hang makes the server of a site hang until the test ends.
func hang(t *testing.T, s *Service, path string) {
	t.Helper()
	l := stuck{make(chan struct{})}
	t.Cleanup(func() { close(l.release) })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attended[path].server.see(l)
}

// A resolver that hangs is closed with its redirect; the engine answers alone, and later
// weft tries again.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	site, other := newSite(t, "nft"), newSite(t, "nft")
	service := serviceOf(t, oneName("10.0.0.3"), false)
	service.Attend(container(site))
	service.Attend(container(other))
	serving(t, service, 2)
	hang(t, service, site.path)
	hung := time.Now()
	eventually(t, 20*time.Second, func() error {
		if got := site.lookup("udp", "local.", dnsmessage.TypeA, 100*time.Millisecond); got != "10.0.0.2" {
			return fmt.Errorf("local is %q", got)
		}
		return nil
	})
	t.Logf("the engine answered %v after the resolver hung", time.Since(hung))
	if got := other.lookup("udp", "redis.", dnsmessage.TypeA, 5*time.Second); got != "10.0.0.3" {
		t.Errorf("another container: %s", got)
	}
	eventually(t, 20*time.Second, func() error {
		if got := site.lookup("udp", "redis.", dnsmessage.TypeA, time.Second); got != "10.0.0.3" {
			return fmt.Errorf("later redis is %q", got)
		}
		return nil
	})
}

// What waits and is not taken counts as hanging, look by look, by UDP and by TCP.
func TestHung(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"udp", "tcp"} {
		site := newSite(t, "nft")
		s := &server{conns: make(chan struct{}, maxConns)} // and nobody serves
		var err1, err2 error
		s.udp, err1 = site.ListenUDP(netip.MustParseAddrPort("127.0.0.11:0"))
		s.tcp, err2 = site.ListenTCP(netip.MustParseAddrPort("127.0.0.11:0"))
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if n := s.hung(); n != 0 {
			t.Errorf("%s: nothing waits, and it hung for %d looks", network, n)
		}
		if network == "udp" {
			c, err := site.DialUDP(kernel.Dialing{To: s.udp.LocalAddr().(*net.UDPAddr).AddrPort()})
			if err == nil {
				_, err = c.Write([]byte("?"))
			}
			if err != nil {
				t.Fatal(err)
			}
		} else if _, err := site.DialTCP(kernel.Dialing{To: s.tcp.Addr().(*net.TCPAddr).AddrPort()}, time.Second); err != nil {
			t.Fatal(err)
		}
		for want := 1; want <= hungAfter; want++ {
			if n := s.hung(); n != want {
				t.Errorf("%s: hung for %d looks, want %d", network, n, want)
			}
		}
		s.turns.Add(1)
		s.accepted.Add(1)
		if n := s.hung(); n != 0 {
			t.Errorf("%s: something was done, and it hung for %d looks", network, n)
		}
		_, _ = s.udp.Close(), s.tcp.Close()
	}
}

// A server that has nothing to do does not look hung.
func TestIdleIsNotHung(t *testing.T) {
	t.Parallel()
	site := newSite(t, "nft")
	server := serverOf(t, site, newScope(oneName("10.0.0.3"), container(site)))
	for range 2 * hungAfter {
		if n := server.hung(); n != 0 {
			t.Fatalf("hung for %d looks", n)
		}
	}
	if got := site.lookup("udp", "redis.", dnsmessage.TypeA, time.Second); got != "10.0.0.3" {
		t.Error(got)
	}
	if n := server.hung(); n != 0 {
		t.Errorf("hung for %d looks after an answer", n)
	}
}

func serverOf(t testing.TB, site *site, l Lookup) *server {
	t.Helper()
	cfg := configOf(openKernel(t), nil, false, nil)
	sandbox, err := cfg.Open(site.path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := openServer(sandbox, standardPlaces(), &common{}, l, cfg.Redirect, func(_ *server, err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.close() })
	return s
}

// weft's questions never come back to it: not when rules in the container change the marks
// of packets, not when the engine's rules are gone, and a packet that pretends to be one
// changes nothing.
func TestNoLoop(t *testing.T) {
	t.Parallel()
	site := newSite(t, "nft")
	service := serviceOf(t, oneName("10.0.0.3"), false)
	service.Attend(container(site))
	serving(t, service, 1)
	run(t, site.path, `nft 'table ip mesh { chain out { type filter hook output priority -150; meta mark set 0; }; }'`)
	asked := site.engine.asked.Load()
	works := func(when string) {
		t.Helper()
		for _, network := range []string{"udp", "tcp"} {
			for name, want := range map[string]string{"local.": "10.0.0.2", "redis.": "10.0.0.3"} {
				if got := site.lookup(network, name, dnsmessage.TypeA, 5*time.Second); got != want {
					t.Errorf("%s, %s: %s is %s, want %s", when, network, name, got, want)
				}
			}
		}
	}
	works("other marks")
	for _, to := range []netip.AddrPort{standardPlaces().engine, standardPlaces().listen} {
		spoof, err := site.DialUDP(kernel.Dialing{From: standardPlaces().from, To: to})
		if err != nil {
			t.Fatal(err)
		}
		defer spoof.Close()
		if _, err := spoof.Write(ask(t, "redis.", dnsmessage.TypeA, 0)); err != nil {
			t.Fatal(err)
		}
	}
	works("spoofed")
	run(t, site.path, "nft delete table ip docker-dns")
	for _, network := range []string{"udp", "tcp"} {
		if got := site.lookup(network, "local.", dnsmessage.TypeA, 5*time.Second); got != "ServerFailure" {
			t.Errorf("%s without the engine's rules: local is %s", network, got)
		}
	}
	if n := site.engine.asked.Load() - asked; n > 10 {
		t.Errorf("the engine was asked %d times for two questions, twice", n)
	}
	if st := service.Status(); st.Serving != 1 || len(st.Problems) != 0 {
		t.Errorf("%+v", st)
	}
}

// Questions that the engine does not answer are silent and bounded, and others pass.
func TestSilentEngine(t *testing.T) {
	t.Parallel()
	site := newSite(t, "nft")
	server := serverOf(t, site, newScope(oneName("10.0.0.3"), container(site)))
	c, err := site.DialUDP(dialingResolver())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	eventually(t, 10*time.Second, func() error { // the sockets' buffers lose some
		for range maxPassed {
			if _, err := c.Write(ask(t, "never.", dnsmessage.TypeA, 0)); err != nil {
				t.Fatal(err)
			}
			if got := server.passed.Load(); got > maxPassed+1 {
				t.Fatalf("%d questions wait for the engine", got)
			}
		}
		if server.dropped.Load() == 0 {
			return fmt.Errorf("none was dropped, %d wait", server.passed.Load())
		}
		return nil
	})
	eventually(t, 10*time.Second, func() error { // what the flood left in the socket is in the way
		if got := site.lookup("udp", "redis.", dnsmessage.TypeA, time.Second); got != "10.0.0.3" {
			return fmt.Errorf("redis is %s", got)
		}
		return nil
	})
	// Where all containers together wait for too much, one that asks little is answered.
	server.common.passed.Add(maxPassedByAll)
	dropped := server.dropped.Load()
	if _, err := c.Write(ask(t, "never.", dnsmessage.TypeA, 0)); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, func() error {
		if server.dropped.Load() == dropped {
			return errors.New("a question was not dropped")
		}
		return nil
	})
	modest := newSite(t, "nft")
	neighbour := serverOf(t, modest, newScope(oneName("10.0.0.3"), container(modest)))
	neighbour.common.passed.Add(maxPassedByAll)
	if got := modest.lookup("udp", "local.", dnsmessage.TypeA, 5*time.Second); got != "10.0.0.2" {
		t.Errorf("where much waits elsewhere: local is %s", got)
	}
	if err := server.close(); err != nil {
		t.Error(err)
	}
	eventually(t, 5*time.Second, func() error {
		if n := server.passed.Load(); n != 0 {
			return fmt.Errorf("%d questions outlive the server", n)
		}
		return nil
	})
}

// Connections that say nothing keep others out of their own container only, and not for ever.
func TestSilentConnections(t *testing.T) {
	t.Parallel()
	site, other := newSite(t, "nft"), newSite(t, "nft")
	book := oneName("10.0.0.3")
	serverOf(t, site, newScope(book, container(site)))
	serverOf(t, other, newScope(book, container(other)))
	for range maxConns {
		c, err := site.DialTCP(dialingResolver(), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if got := other.lookup("tcp", "redis.", dnsmessage.TypeA, 5*time.Second); got != "10.0.0.3" {
		t.Errorf("another container: %s", got)
	}
	if got := site.lookup("udp", "redis.", dnsmessage.TypeA, 5*time.Second); got != "10.0.0.3" {
		t.Errorf("by UDP: %s", got)
	}
	if got := site.lookup("tcp", "redis.", dnsmessage.TypeA, idleTime+5*time.Second); got != "10.0.0.3" {
		t.Errorf("by TCP, when the silent ones were closed: %s", got)
	}
}

// One container asks as fast as it can, what weft knows and what the engine has to
// answer; another one is timed.
func TestFloodOfOneContainer(t *testing.T) {
	site, other := newSite(t, "nft"), newSite(t, "nft")
	service := serviceOf(t, oneName("10.0.0.3"), false)
	service.Attend(container(site))
	service.Attend(container(other))
	serving(t, service, 2)
	median := func() time.Duration {
		var took []time.Duration
		for range 200 {
			at := time.Now()
			if got := other.lookup("udp", "redis.", dnsmessage.TypeA, 5*time.Second); got != "10.0.0.3" {
				t.Fatalf("redis is %s", got)
			}
			took = append(took, time.Since(at))
		}
		slices.Sort(took)
		t.Logf("p50 %v, p99 %v, most %v", took[100], took[198], took[199])
		return took[198]
	}
	median()
	var stop atomic.Bool
	var flood sync.WaitGroup
	sent := atomic.Int64{}
	for _, name := range []string{"redis.", "never."} {
		flood.Go(func() {
			c, err := site.DialUDP(dialingResolver())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			message := ask(t, name, dnsmessage.TypeA, 0)
			for !stop.Load() {
				_, _ = c.Write(message)
				sent.Add(1)
			}
		})
	}
	p99 := median()
	stop.Store(true)
	flood.Wait()
	t.Logf("%d questions in the meantime", sent.Load())
	// The flood of this test takes the processors as well, which a container's limits bound.
	if p99 > time.Second {
		t.Errorf("p99 of another container is %v during a flood", p99)
	}
}

// The process is killed. Until then and from then on a loop of lookups goes on.
func TestKilled(t *testing.T) {
	if paths, other := os.LookupEnv("WEFT_TEST_SITES"); other {
		serveUntilKilled(strings.FieldsFunc(paths, func(r rune) bool { return r == ':' }), os.Getenv("WEFT_TEST_TIMED") != "")
	}
	for _, tt := range []struct {
		name  string
		timed bool
		limit time.Duration
	}{{"owner", false, time.Second}, {"timed", true, 10 * time.Second}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			site := newSite(t, "legacy")
			_, kill := startProcess(t, tt.timed, site.path)
			eventually(t, 20*time.Second, func() error {
				if got := site.lookup("udp", "redis.", dnsmessage.TypeA, time.Second); got != "10.0.0.3" {
					return fmt.Errorf("redis is %q", got)
				}
				return nil
			})
			client := newBusy(t, site)
			// until asks for local and redis in turn, from one socket, and returns for how
			// long local failed at most.
			until := func(enough func(redis string) bool) (longest time.Duration) {
				t.Helper()
				for lastGood := time.Now(); ; {
					if client.ask("local.") == "10.0.0.2" {
						longest = max(longest, time.Since(lastGood))
						lastGood = time.Now()
						if enough(client.ask("redis.")) {
							return longest
						}
					}
					if time.Since(lastGood) > 2*tt.limit {
						t.Fatalf("local fails for %v", time.Since(lastGood))
					}
				}
			}
			within := func(what string, limit, took time.Duration) {
				t.Helper()
				t.Logf("%s: local names failed for %v at most", what, took)
				if took > limit {
					t.Errorf("%s: local names failed for %v, want %v at most", what, took, limit)
				}
			}
			alone := func() func(string) bool { // the engine knows that there is a redis, without an address
				begin := time.Now()
				return func(redis string) bool { return redis == "" && time.Since(begin) > time.Second/2 }
			}
			together := func(redis string) bool { return redis == "10.0.0.3" }
			until(together)
			kill()
			within("killed", tt.limit, until(alone()))
			started := time.Now()
			pid, _ := startProcess(t, tt.timed, site.path)
			within("started again", tt.limit, until(together))
			t.Logf("names of other hosts after %v", time.Since(started))
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			limit := tt.limit
			tt.limit = 10 * time.Second
			within("stopped", tt.limit, until(alone()))
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			within("woken", limit, until(together))
		})
	}
}

// A busy client asks from one socket all the time.
type busy struct {
	t    *testing.T
	conn *net.UDPConn
	id   uint16
}

func newBusy(t *testing.T, s *site) *busy {
	t.Helper()
	c, err := s.DialUDP(dialingResolver())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &busy{t: t, conn: c}
}

// ask returns the addresses of a name, or why there are none. Nothing is waited for long.
func (b *busy) ask(name string) string {
	b.t.Helper()
	b.id++
	question := ask(b.t, name, dnsmessage.TypeA, 0)
	binary.BigEndian.PutUint16(question, b.id)
	if _, err := b.conn.Write(question); err != nil {
		return err.Error()
	}
	_ = b.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	buf := make([]byte, 512)
	for {
		n, err := b.conn.Read(buf)
		if err != nil {
			return err.Error()
		}
		if reply := unpack(b.t, buf[:n]); reply.ID == b.id {
			return addressesIn(reply)
		}
	}
}

// All of many sandboxes are free at once when the process dies, and it is gone as soon, so
// that it can be started again.
func TestKilledWithManySandboxes(t *testing.T) {
	const many = 100
	dir := t.TempDir()
	var paths []string
	for i := range many {
		paths = append(paths, filepath.Join(dir, fmt.Sprint(i)))
		mountNamespace(t, paths[i])
	}
	redirected := func() (n int) {
		for _, path := range paths {
			if strings.Contains(run(t, path, "nft list tables"), "weft-names") {
				n++
			}
		}
		return n
	}
	var took time.Duration
	for range 3 { // a busy machine may be slow, but not each time
		_, kill := startProcess(t, false, paths...)
		eventually(t, 30*time.Second, func() error {
			if n := redirected(); n != many {
				return fmt.Errorf("%d of %d sandboxes have a redirect", n, many)
			}
			return nil
		})
		killed := time.Now()
		kill()
		took = time.Since(killed)
		t.Logf("gone after %v", took)
		if n := redirected(); n != 0 {
			t.Errorf("%d redirects outlive their process", n)
		}
		if took <= time.Second {
			return
		}
	}
	t.Errorf("the process took %v to die, want a second at most", took)
}

// startProcess runs the service in another process, and returns its id and what kills it.
func startProcess(t *testing.T, timed bool, paths ...string) (pid int, kill func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), "WEFT_TEST_SITES="+strings.Join(paths, ":"))
	if timed {
		cmd.Env = append(cmd.Env, "WEFT_TEST_TIMED=1")
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	kill = func() {
		once.Do(func() {
			cancel() // SIGKILL
			_ = cmd.Wait()
		})
	}
	t.Cleanup(kill)
	return cmd.Process.Pid, kill
}

// serveUntilKilled is the other process.
func serveUntilKilled(paths []string, timed bool) {
	h, err := kernel.Open(kernel.Config{})
	if err != nil {
		os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
	s := New(configOf(h, oneName("10.0.0.3"), timed, nil))
	for _, path := range paths {
		s.Attend(Container{Sandbox: path, Networks: []string{"n1"}})
	}
	_ = s.Run(context.Background())
}

// The usual port is the container's, if it takes it first.
func TestPortIsTaken(t *testing.T) {
	t.Parallel()
	site := newSite(t, "nft")
	taken := netip.AddrPortFrom(netip.IPv4Unspecified(), standardPlaces().listen.Port())
	u, err1 := site.ListenUDP(taken)
	l, err2 := site.ListenTCP(taken)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	defer l.Close()
	serverOf(t, site, newScope(oneName("10.0.0.3"), container(site)))
	for _, network := range []string{"udp", "tcp"} {
		if got := site.lookup(network, "redis.", dnsmessage.TypeA, 5*time.Second); got != "10.0.0.3" {
			t.Errorf("%s: redis is %s", network, got)
		}
	}
}

// Whoever reads the answers of others gets none of them: replies carry their question.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	site := newSite(t, "nft")
	serverOf(t, site, newScope(oneName("10.0.0.3"), container(site)))
	r := &net.Resolver{PreferGo: true, Dial: func(_ context.Context, network, _ string) (net.Conn, error) {
		if strings.HasPrefix(network, "tcp") {
			return site.DialTCP(dialingResolver(), 5*time.Second)
		}
		return site.DialUDP(dialingResolver())
	}}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 25 {
				name, want := "redis.", "10.0.0.3"
				if i%2 == 0 {
					name, want = "local.", "10.0.0.2"
				}
				got, err := r.LookupNetIP(t.Context(), "ip4", name)
				if err != nil || !slices.Equal(got, []netip.Addr{netip.MustParseAddr(want)}) {
					t.Errorf("%s: %v, %v, want %s", name, got, err, want)
				}
			}
		})
	}
	all.Wait()
}

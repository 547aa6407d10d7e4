package names

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// oneName is a book in which redis is at an address.
func oneName(addr string) *Book {
	b := NewBook()
	b.SetNetwork(Network{ID: "n1", Name: "mynet", Endpoints: []Endpoint{{Host: "h2", ID: "e2", Names: []string{"redis"}, Addrs: addrs(addr)}}})
	return b
}

func container(s *site) Container { return Container{Sandbox: s.path, Networks: []string{"n1"}} }

func TestNamesBesideEachEngine(t *testing.T) {
	for way := range ways() {
		for _, timed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/timed=%v", way, timed), func(t *testing.T) {
				t.Parallel()
				site := newSite(t, way)
				book := oneName("10.0.0.3")
				service := serviceOf(t, book, timed)
				check := func(when, redis, withNetwork string) {
					t.Helper()
					for _, network := range []string{"udp", "tcp"} {
						for name, want := range map[string]string{
							"redis.": redis, "Redis.MyNet.": withNetwork, "local.": "10.0.0.2", "example.com.": "NameError",
						} {
							if got := site.lookup(network, name, dnsmessage.TypeA, 5*time.Second); got != want {
								t.Errorf("%s, %s: %s is %q, want %q", when, network, name, got, want)
							}
						}
					}
				}
				alone := func(when string) { t.Helper(); check(when, "", "NameError") }
				both := func(when, addr string) { t.Helper(); check(when, addr, addr) }
				alone("the engine alone")
				service.Attend(container(site))
				serving(t, service, 1)
				if st := service.Status(); (st.Timed == 1) != timed {
					t.Errorf("status %+v, want timed %v", st, timed)
				}
				both("attended", "10.0.0.3")
				book.SetEndpoints("n1", Endpoint{Host: "h2", ID: "e2", Names: []string{"redis"}, Addrs: addrs("10.0.0.9")})
				both("moved", "10.0.0.9")
				service.Attend(Container{Sandbox: site.path, Networks: []string{"n2"}})
				alone("in another network")
				service.Attend(container(site))
				both("in the network again", "10.0.0.9")
				service.Forsake(site.path)
				eventually(t, 5*time.Second, func() error {
					if left := run(t, site.path, "nft list tables; ss -Hlnu src 127.0.0.11"); strings.Contains(left, "weft") || strings.Count(left, "127.0.0.11") != 1 {
						return fmt.Errorf("left behind: %s", left)
					}
					return nil
				})
				alone("forsaken")
			})
		}
	}
}

// What is not ours goes to the engine, and its replies come back, as they are.
func TestPassedUnchanged(t *testing.T) {
	t.Parallel()
	site := newSite(t, "nft")
	service := serviceOf(t, oneName("10.0.0.3"), false)
	service.Attend(container(site))
	serving(t, service, 1)
	odd := ask(t, "redis.", dnsmessage.TypeA, 0)
	odd[2] = 5 << 3 // an update
	for name, message := range map[string][]byte{
		"EDNS with options":     ask(t, "example.com.", dnsmessage.TypeTXT, 1232),
		"no EDNS":               ask(t, "local.", dnsmessage.TypeA, 0),
		"mixed case":            ask(t, "ExAmPlE.cOm.", dnsmessage.TypeA, 0),
		"our name, other type":  ask(t, "redis.", dnsmessage.TypeTXT, 4096),
		"a large reply":         ask(t, "huge.", dnsmessage.TypeTXT, 512),
		"an update":             odd,
		"no message of DNS":     []byte("0123456789abcdef"),
		"octets behind the end": append(ask(t, "redis.", dnsmessage.TypeA, 0), "tail"...),
	} {
		for _, network := range []string{"udp", "tcp"} {
			got, err := site.exchange(network, message, 5*time.Second)
			if err != nil {
				t.Errorf("%s, %s: %v", name, network, err)
				continue
			}
			site.engine.mu.Lock()
			if !bytes.Equal(site.engine.last, message) {
				t.Errorf("%s, %s: the engine was asked %x, want %x", name, network, site.engine.last, message)
			}
			site.engine.mu.Unlock()
			if want := site.engine.handle(message, network == "tcp"); !bytes.Equal(got, want) {
				t.Errorf("%s, %s: the reply is %x, want %x", name, network, got, want)
			}
		}
	}
	// Truncated by UDP, whole by TCP.
	cut, err := site.exchange("udp", ask(t, "big.", dnsmessage.TypeTXT, 1232), 5*time.Second)
	if err != nil || !unpack(t, cut).Truncated {
		t.Errorf("by UDP: %x, %v, want it truncated", cut, err)
	}
	whole, err := site.exchange("tcp", ask(t, "big.", dnsmessage.TypeTXT, 1232), 5*time.Second)
	if err != nil || len(whole) < 3000 {
		t.Errorf("by TCP: %d octets, %v, want all of it", len(whole), err)
	}
}

// Nobody listens any more: the client is told at once, and names of weft's go on. An
// engine that comes back on another port is found.
func TestEngineIsAway(t *testing.T) {
	t.Parallel()
	site := newSite(t, "nft")
	service := serviceOf(t, oneName("10.0.0.3"), false)
	service.Attend(container(site))
	serving(t, service, 1)
	if got := site.lookup("udp", "local.", dnsmessage.TypeA, 5*time.Second); got != "10.0.0.2" {
		t.Fatal(got)
	}
	site.engine.stop()
	for _, network := range []string{"udp", "tcp"} {
		if got := site.lookup(network, "local.", dnsmessage.TypeA, 5*time.Second); got != "ServerFailure" {
			t.Errorf("%s without the engine: %s, want ServerFailure", network, got)
		}
		if got := site.lookup(network, "redis.", dnsmessage.TypeA, 5*time.Second); got != "10.0.0.3" {
			t.Errorf("%s without the engine: redis is %s", network, got)
		}
	}
	site.engine = startEngine(t, site.Sandbox)
	run(t, site.path, "nft delete table ip docker-dns;"+strings.ReplaceAll(ways()["nft"], "PORT", fmt.Sprint(site.engine.port)))
	for _, network := range []string{"udp", "tcp"} {
		if got := site.lookup(network, "local.", dnsmessage.TypeA, 5*time.Second); got != "10.0.0.2" {
			t.Errorf("%s with the engine back: %s", network, got)
		}
	}
}

// Several questions on one connection, ours and the engine's.
func TestOneConnection(t *testing.T) {
	t.Parallel()
	site := newSite(t, "nft")
	service := serviceOf(t, oneName("10.0.0.3"), false)
	service.Attend(container(site))
	serving(t, service, 1)
	c, err := site.DialTCP(dialingResolver(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		for _, name := range []string{"local.", "redis.", "example.com.", "big."} {
			message := ask(t, name, dnsmessage.TypeA, 0)
			if err := writeFrame(c, append([]byte{0, byte(len(message))}, message...)); err != nil {
				t.Fatal(err)
			}
			frame, err := readFrame(c, time.Now().Add(5*time.Second))
			if err != nil {
				t.Fatal(name, err)
			}
			if m := unpack(t, frame[frameHeader:]); m.ID != 0xabcd || m.Questions[0].Name.String() != name {
				t.Errorf("%s: %v", name, m)
			}
		}
	}
}

// Engines before 28 make the sandbox after the plugin heard of it.
func TestSandboxThatIsNotThereYet(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "netns")
	service := serviceOf(t, oneName("10.0.0.3"), false)
	service.Attend(Container{Sandbox: path, Networks: []string{"n1"}})
	eventually(t, 5*time.Second, func() error {
		if st := service.Status(); st.Attended != 1 || st.Serving != 0 || len(st.Problems) != 0 {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	mountNamespace(t, path)
	there := time.Now()
	serving(t, service, 1)
	t.Logf("served %v after its namespace was there", time.Since(there))
}

// A sandbox that the engine removed is let go, without an error and without being forsaken;
// the next one at its path is served.
func TestSandboxGoesAndComes(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "netns")
	mountNamespace(t, path)
	service := serviceOf(t, oneName("10.0.0.3"), false)
	service.Attend(Container{Sandbox: path, Networks: []string{"n1"}})
	serving(t, service, 1)
	other := filepath.Join(t.TempDir(), "netns")
	mountNamespace(t, other)
	run(t, path, "ip link add witness type veth peer netns "+other+" name witness")
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	serving(t, service, 0)
	// Whoever makes a mount namespace on this machine at the wrong moment copies the mount, and
	// keeps it until it ends.
	eventually(t, time.Minute, func() error {
		if left := run(t, other, "ip -o link"); strings.Contains(left, "witness") {
			return fmt.Errorf("something keeps the namespace alive: %s", left)
		}
		return nil
	})
	if st := service.Status(); len(st.Problems) != 0 {
		t.Errorf("%+v", st)
	}
	mountNamespace(t, path)
	serving(t, service, 1)
	service.Forsake(path)
	service.Forsake(path)
	service.Forsake("/nowhere")
	eventually(t, 5*time.Second, func() error {
		if st := service.Status(); st.Attended != 0 || st.Serving != 0 {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	if got := service.Attended(); len(got) != 0 {
		t.Errorf("attended: %v", got)
	}
}

// A socket that asked the engine before weft came asks weft from then on, and the engine
// when weft has left: nothing remembers where it asked.
func TestSocketsThatAreKept(t *testing.T) {
	t.Parallel()
	for way := range ways() {
		site := newSite(t, way)
		client := newBusy(t, site)
		for range 2 {
			if got := client.ask("redis."); got != "" {
				t.Errorf("%s, the engine alone: redis is %s", way, got)
			}
			server := serverOf(t, site, newScope(oneName("10.0.0.3"), container(site)))
			if got := client.ask("redis."); got != "10.0.0.3" {
				t.Errorf("%s, with weft: redis is %s", way, got)
			}
			if err := server.close(); err != nil {
				t.Error(err)
			}
		}
		if got := client.ask("redis."); got != "" {
			t.Errorf("%s, weft left: redis is %s", way, got)
		}
	}
}

// What goes wrong is told with the container's name, and ends with its cause.
func TestTroubleIsTold(t *testing.T) {
	t.Parallel()
	site := newSite(t, "nft")
	cfg := configOf(openKernel(t), oneName("10.0.0.3"), false, nil)
	var broken atomic.Bool
	broken.Store(true)
	redirect := cfg.Redirect
	cfg.Redirect = func(r Redirection) (Redirect, error) {
		if broken.Load() {
			return nil, errors.New("no rules today")
		}
		return redirect(r)
	}
	service := New(cfg)
	go func() { _ = service.Run(t.Context()) }()
	web := container(site)
	service.Attend(web) // its name is not known yet
	web.Name = "web"
	service.Attend(web)
	eventually(t, 5*time.Second, func() error {
		if st := service.Status(); st.Problems["web"] != "no rules today" {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	broken.Store(false)
	serving(t, service, 1)
	if st := service.Status(); len(st.Problems) != 0 {
		t.Errorf("%+v", st)
	}
}

// Tries come less often each time, from the start again after it went well for long; that
// it once did makes no difference later.
func TestPauseGrows(t *testing.T) {
	s := New(Config{})
	a := &attendance{pause: lastRetry, opened: time.Now().Add(-2 * lastRetry)}
	for want := firstRetry; want < lastRetry; want *= 2 {
		s.trouble(a, errors.New("it cannot be opened"))
		if a.pause != want {
			t.Fatalf("the next try is after %v, want %v", a.pause, want)
		}
	}
}

// closing is a Redirect that does something first when it is closed.
type closing struct {
	Redirect
	first func()
}

func (c closing) Close() error {
	c.first()
	return c.Redirect.Close()
}

// closingFirst is a Config whose redirects do something first when they are closed.
func closingFirst(t *testing.T, first func()) Config {
	cfg := configOf(openKernel(t), oneName("10.0.0.3"), false, nil)
	redirect := cfg.Redirect
	cfg.Redirect = func(r Redirection) (Redirect, error) {
		out, err := redirect(r)
		if err != nil {
			return nil, err
		}
		return closing{out, first}, nil
	}
	cfg.Renew = func([]Redirect, func(Redirect, error)) {} // they hold for long enough
	return cfg
}

// Sandboxes that take the kernel long to close keep none from being opened.
func TestOpenedWhileOthersAreClosed(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	service := New(closingFirst(t, func() { <-release }))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- service.Run(ctx) }()
	attend := func() string {
		path := filepath.Join(t.TempDir(), "netns")
		mountNamespace(t, path)
		service.Attend(Container{Sandbox: path, Networks: []string{"n1"}})
		return path
	}
	var paths []string
	for range maxOpening {
		paths = append(paths, attend())
	}
	serving(t, service, maxOpening)
	for _, path := range paths {
		service.Forsake(path)
	}
	serving(t, service, 0)
	attend()
	serving(t, service, 1)
	close(release)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// When weft ends, its sandboxes are closed while others can have the lock: closing one waits
// for a renewal of it, which says what failed.
func TestLeaveWithoutTheLock(t *testing.T) {
	t.Parallel()
	var service *Service
	service = New(closingFirst(t, func() { service.Status() }))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- service.Run(ctx) }()
	for range 2 {
		path := filepath.Join(t.TempDir(), "netns")
		mountNamespace(t, path)
		service.Attend(Container{Sandbox: path, Networks: []string{"n1"}})
	}
	serving(t, service, 2)
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits for itself")
	}
}

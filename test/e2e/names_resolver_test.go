package e2e_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/weft-net/weft/internal/firewall"
	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/names"
	"github.com/weft-net/weft/test/lab"
)

// What a container asks must be answered as by the engine alone, whether weft knows the
// local names or not; and names of other hosts besides. The resolver runs here, on the
// machine, and the container is on a network of the engine's own.
func TestNamesResolver(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{"20.10.24", "26.1.5", "28.5.2"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			l := lab.New(t, lab.Config{Hosts: []lab.HostConfig{{Name: "h1", Engine: engine, DaemonJSON: `{"live-restore": true}`}}})
			h := l.Host("h1")
			upstreamResolver(t, l.Outside)
			h.MustDocker(t, "network", "create", "mynet")
			h.MustDocker(t, "run", "-d", "--name", "local", "--network", "mynet", "--network-alias", "db", lab.Image, "sleep", "inf")
			h.MustDocker(t, "run", "-d", "--name", "client", "--network", "mynet", "--link", "local:linked", "--add-host", "fixed:192.0.2.9",
				"--dns", l.Outside.IPv4.String(), lab.Image, "sleep", "inf")
			in := func(args ...string) string {
				out, err := h.Docker(t.Context(), append([]string{"exec", "client"}, args...)...)
				if err != nil && out == "" {
					return "nothing"
				}
				return out
			}
			address := strings.TrimSpace(h.MustDocker(t, "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "local"))
			questions := [][]string{
				{"getent", "ahosts", "local"}, {"getent", "ahosts", "LOCAL.mynet"}, {"getent", "ahosts", "db"}, {"getent", "ahosts", "linked"},
				{"getent", "hosts", address}, {"getent", "ahosts", "fixed"}, {"getent", "ahosts", "localhost"}, {"getent", "ahosts", "nobody"},
				{"getent", "ahosts", "ext.test"}, {"drill", "ext.test", "TXT"}, {"drill", "-t", "ext.test", "TXT"}, {"drill", "-b", "1232", "big.test", "TXT"},
				{"drill", "local", "A"}, {"drill", "local", "AAAA"}, {"drill", "local", "MX"}, {"drill", "-t", "db", "A"}, {"drill", "-x", address},
			}
			answers := func() map[string]string {
				out := map[string]string{}
				for _, q := range questions {
					out[strings.Join(q, " ")] = withoutChance(in(q...))
				}
				return out
			}
			alone := answers()
			for q, a := range alone {
				if wantNone := strings.HasSuffix(q, "nobody"); (a == "nothing") != wantNone {
					t.Errorf("the engine alone: %s: %s", q, a)
				}
			}
			same := func(when string) {
				t.Helper()
				for q, a := range answers() {
					if a != alone[q] {
						t.Errorf("%s: %s: %s\nthe engine alone: %s", when, q, a, alone[q])
					}
				}
			}

			book := names.NewBook()
			redis := names.Endpoint{Host: "h2", ID: "e2", Names: []string{"redis"}, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.6")}}
			book.SetNetwork(names.Network{ID: "n1", Name: "mynet", Endpoints: []names.Endpoint{redis}})
			service := resolverService(t, book)
			key := strings.TrimSpace(h.MustDocker(t, "inspect", "-f", "{{.NetworkSettings.SandboxKey}}", "client"))
			sandbox := fmt.Sprintf("/proc/%d/root%s", h.PID(), strings.Replace(key, "/var/run/", "/run/", 1))
			container := names.Container{Sandbox: sandbox, Networks: []string{"n1"}, Private: []string{"linked"}}
			service.Attend(container)
			soon(t, "redis resolves", func() bool { return strings.Contains(in("getent", "ahosts", "redis.mynet"), "192.0.2.6") })
			if out := in("getent", "hosts", "192.0.2.6"); !strings.Contains(out, "redis.mynet") {
				t.Errorf("the name of 192.0.2.6 is %s", out)
			}
			same("weft does not know the local names")
			book.SetEndpoints("n1", names.Endpoint{
				Host: "h1", ID: "e1", Local: true, Names: []string{"local", "db"}, Addrs: []netip.Addr{netip.MustParseAddr(address)},
			})
			same("weft knows the local names")

			service.Forsake(sandbox)
			soon(t, "weft has left", func() bool { return in("getent", "ahosts", "redis") == "nothing" })
			same("weft has left")

			service.Attend(container)
			// The engine's resolver comes back on another port, and weft finds it. (The engine
			// itself has forgotten the aliases of --link by then.)
			if err := h.KillEngine(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := h.StartEngine(t.Context()); err != nil {
				t.Fatal(err)
			}
			soon(t, "names pass to the engine that was started again", func() bool {
				return strings.Contains(in("getent", "ahosts", "ext.test"), "192.0.2.7") && strings.Contains(in("getent", "ahosts", "redis"), "192.0.2.6")
			})
		})
	}
}

// withoutChance is an answer without what differs each time.
func withoutChance(out string) string {
	out = regexp.MustCompile(`id: \d+|;; (Query time|WHEN|SERVER|MSG SIZE).*`).ReplaceAllString(out, "")
	return regexp.MustCompile(`\s+`).ReplaceAllString(out, " ")
}

func soon(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// resolverService is names.Service on this machine's kernel, until the test ends.
func resolverService(t *testing.T, book *names.Book) *names.Service {
	t.Helper()
	k, err := kernel.Open(kernel.Config{})
	if err != nil {
		t.Fatal(err)
	}
	var redirects firewall.Redirects
	s := names.New(names.Config{
		Book: book,
		Open: func(path string) (names.Sandbox, error) {
			sandbox, err := k.OpenSandbox(path)
			if err != nil {
				return nil, err
			}
			return sandbox, nil
		},
		Redirect: func(r names.Redirection) (names.Redirect, error) {
			out, err := redirects.Open(firewall.Redirection{Namespace: r.Namespace, Resolver: r.Resolver, UDP: r.UDP, TCP: r.TCP, Pass: r.Pass})
			if err != nil {
				return nil, err
			}
			return out, nil
		},
		Renew: func(list []names.Redirect, failed func(names.Redirect, error)) {
			var own []*firewall.Redirect
			for _, r := range list {
				own = append(own, r.(*firewall.Redirect))
			}
			redirects.Renew(own, func(r *firewall.Redirect, err error) { failed(r, err) })
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = k.Close()
	})
	return s
}

// upstreamResolver answers for ext.test and big.test outside, by UDP and TCP; nothing else
// exists there.
func upstreamResolver(t *testing.T, outside *lab.Host) {
	t.Helper()
	k, err := kernel.Open(kernel.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	ns, err := k.OpenSandbox(fmt.Sprintf("/proc/%d/ns/net", outside.PID()))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	at := netip.AddrPortFrom(outside.IPv4, 53)
	u, err := ns.ListenUDP(at)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ns.ListenTCP(at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = u.Close(), l.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := u.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = u.WriteToUDPAddrPort(upstreamReply(buf[:n], false), from)
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go upstreamConn(c)
		}
	}()
}

func upstreamConn(c net.Conn) {
	defer c.Close()
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf) // a question comes in one piece here
		if err != nil || n < 2 {
			return
		}
		reply := upstreamReply(buf[2:n], true)
		if _, err := c.Write(append([]byte{byte(len(reply) >> 8), byte(len(reply))}, reply...)); err != nil {
			return
		}
	}
}

func upstreamReply(question []byte, tcp bool) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(question); err != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	of := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}
	big := &dnsmessage.TXTResource{}
	for range 15 {
		big.TXT = append(big.TXT, strings.Repeat("x", 200))
	}
	var body dnsmessage.ResourceBody
	switch name := q.Name.String(); {
	case name == "ext.test." && q.Type == dnsmessage.TypeA:
		body = &dnsmessage.AResource{A: [4]byte{192, 0, 2, 7}}
	case name == "ext.test." && q.Type == dnsmessage.TypeTXT:
		body = &dnsmessage.TXTResource{TXT: []string{"external"}}
	case name == "big.test." && tcp:
		body = big
	case name == "big.test.":
		m.Truncated = true
	case name != "ext.test.":
		m.RCode = dnsmessage.RCodeNameError
	}
	if body != nil {
		m.Answers = []dnsmessage.Resource{{Header: of, Body: body}}
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

package names

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/internal/firewall"
	"github.com/weft-net/weft/internal/kernel"
)

// ways are how engines send 127.0.0.11:53 to their resolver's PORT.
func ways() map[string]string {
	iptables := func(program string) string {
		return strings.ReplaceAll(`
X -t nat -N DOCKER_OUTPUT
X -t nat -I OUTPUT -d 127.0.0.11 -j DOCKER_OUTPUT
X -t nat -N DOCKER_POSTROUTING
X -t nat -I POSTROUTING -d 127.0.0.11 -j DOCKER_POSTROUTING
for p in udp tcp; do
	X -t nat -I DOCKER_OUTPUT -d 127.0.0.11 -p $p --dport 53 -j DNAT --to-destination 127.0.0.11:PORT
	X -t nat -I DOCKER_POSTROUTING -s 127.0.0.11 -p $p --sport PORT -j SNAT --to-source :53
done`, "X", program)
	}
	return map[string]string{
		"legacy":   iptables("iptables-legacy"),
		"iptables": iptables("iptables-nft"),
		"nft": `nft -f - <<.
table ip docker-dns {
	chain dns-dnat {
		type nat hook output priority -100
		ip daddr 127.0.0.11 udp dport 53 counter dnat to 127.0.0.11:PORT
		ip daddr 127.0.0.11 tcp dport 53 counter dnat to 127.0.0.11:PORT
	}
	chain dns-snat {
		type nat hook postrouting priority 100
		ip saddr 127.0.0.11 udp sport PORT counter snat to :53
		ip saddr 127.0.0.11 tcp sport PORT counter snat to :53
	}
}
.`,
	}
}

func openKernel(t testing.TB) *kernel.Host {
	t.Helper()
	h, err := kernel.Open(kernel.Config{})
	if err != nil {
		t.Fatal(err, "(the tests run as root)")
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// mountNamespace makes a network namespace and mounts it at path, as an engine does.
func mountNamespace(t testing.TB, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	made := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}
		made <- err
	}()
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) }) // some tests have done so
	run(t, path, "ip link set lo up")
}

// run runs a shell script in the namespace and returns what it prints.
func run(t testing.TB, path, script string) string {
	t.Helper()
	out, err := exec.Command("nsenter", "--net="+path, "bash", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// A site is a sandbox with an engine's resolver in it.
type site struct {
	t    testing.TB
	path string
	*kernel.Sandbox
	engine *fakeEngine
}

func newSite(t testing.TB, way string) *site {
	t.Helper()
	h := openKernel(t)
	s := &site{t: t, path: filepath.Join(t.TempDir(), "netns")}
	mountNamespace(t, s.path)
	sandbox, err := h.OpenSandbox(s.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sandbox.Close() })
	s.Sandbox = sandbox
	s.engine = startEngine(t, sandbox)
	run(t, s.path, strings.ReplaceAll(ways()[way], "PORT", fmt.Sprint(s.engine.port)))
	return s
}

// fakeEngine is an engine's resolver as far as the tests see it.
type fakeEngine struct {
	port int
	udp  *net.UDPConn
	tcp  net.Listener
	// asked counts messages, last is the last one.
	asked atomic.Int64
	mu    sync.Mutex
	last  []byte
}

func startEngine(t testing.TB, sandbox *kernel.Sandbox) *fakeEngine {
	t.Helper()
	e := &fakeEngine{}
	for range 20 { // the same port by UDP and TCP
		u, err := sandbox.ListenUDP(netip.MustParseAddrPort("127.0.0.11:0"))
		if err != nil {
			t.Fatal(err)
		}
		at := u.LocalAddr().(*net.UDPAddr).AddrPort()
		l, err := sandbox.ListenTCP(at)
		if err != nil {
			_ = u.Close()
			continue
		}
		e.udp, e.tcp, e.port = u, l, int(at.Port())
		break
	}
	if e.udp == nil {
		t.Fatal("no port is free by UDP and TCP")
	}
	t.Cleanup(e.stop)
	go e.serveUDP()
	go e.serveTCP()
	return e
}

func (e *fakeEngine) stop() { _, _ = e.udp.Close(), e.tcp.Close() }

func (e *fakeEngine) serveUDP() {
	buf := make([]byte, 65535)
	for {
		n, from, err := e.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		if reply := e.handle(buf[:n], false); reply != nil {
			_, _ = e.udp.WriteToUDPAddrPort(reply, from)
		}
	}
}

func (e *fakeEngine) serveTCP() {
	for {
		c, err := e.tcp.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			for {
				var size [2]byte
				if _, err := io.ReadFull(c, size[:]); err != nil {
					return
				}
				message := make([]byte, binary.BigEndian.Uint16(size[:]))
				if _, err := io.ReadFull(c, message); err != nil {
					return
				}
				reply := e.handle(message, true)
				if reply == nil {
					return
				}
				if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
					return
				}
			}
		}()
	}
}

// handle knows local (10.0.0.2), big (a text of 3,000 octets by TCP, cut by UDP) and huge
// (a text of 3,000 octets whatever the size asked for); never gets no reply, the rest does
// not exist. A question with EDNS gets an option back.
func (e *fakeEngine) handle(message []byte, tcp bool) []byte {
	e.asked.Add(1)
	e.mu.Lock()
	e.last = append([]byte(nil), message...)
	e.mu.Unlock()
	var q dnsmessage.Message
	if err := q.Unpack(message); err != nil || len(q.Questions) == 0 {
		return []byte{message[0], message[1], 0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0} // FORMERR
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: q.ID, Response: true, RecursionDesired: q.RecursionDesired, RecursionAvailable: true},
		Questions: q.Questions,
	}
	of := dnsmessage.ResourceHeader{Name: q.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 600}
	text := &dnsmessage.TXTResource{}
	for range 15 {
		text.TXT = append(text.TXT, strings.Repeat("x", 200))
	}
	name, kind := strings.ToLower(q.Questions[0].Name.String()), q.Questions[0].Type
	switch {
	case name == "never.":
		return nil
	case name == "local." && kind == dnsmessage.TypeA:
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: of, Body: &dnsmessage.AResource{A: [4]byte{10, 0, 0, 2}}})
	case name == "local." || name == "redis.": // the type is not there
	case name == "big." && !tcp:
		m.Truncated = true
	case name == "big.", name == "huge.":
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: of, Body: text})
	default:
		m.RCode = dnsmessage.RCodeNameError
	}
	for range q.Additionals {
		var h dnsmessage.ResourceHeader
		_ = h.SetEDNS0(4096, 0, false)
		m.Additionals = append(m.Additionals, dnsmessage.Resource{Header: h, Body: &dnsmessage.OPTResource{Options: []dnsmessage.Option{{Code: 10, Data: []byte("engine")}}}})
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

// serviceOf is a Service on the real kernel that runs until the test ends.
func serviceOf(t testing.TB, book *Book, timed bool) *Service {
	t.Helper()
	s := New(configOf(openKernel(t), book, timed, slog.New(slog.NewTextHandler(testWriter{t}, nil))))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func configOf(h *kernel.Host, book *Book, timed bool, log *slog.Logger) Config {
	redirects := &firewall.Redirects{}
	return Config{
		Book: book, Logger: log,
		Open: func(path string) (Sandbox, error) {
			s, err := h.OpenSandbox(path)
			if err != nil {
				return nil, err
			}
			return s, nil
		},
		Redirect: func(r Redirection) (Redirect, error) {
			out, err := redirects.Open(firewall.Redirection{
				Namespace: r.Namespace, Resolver: r.Resolver, UDP: r.UDP, TCP: r.TCP, Pass: r.Pass, Timed: timed,
			})
			if err != nil {
				return nil, err
			}
			return out, nil
		},
		Renew: func(list []Redirect, failed func(Redirect, error)) {
			var own []*firewall.Redirect
			for _, r := range list {
				own = append(own, r.(*firewall.Redirect))
			}
			redirects.Renew(own, func(r *firewall.Redirect, err error) { failed(r, err) })
		},
	}
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// serving waits until the service answers in so many sandboxes.
func serving(t testing.TB, s *Service, n int) {
	t.Helper()
	eventually(t, 10*time.Second, func() error {
		if st := s.Status(); st.Serving != n {
			return fmt.Errorf("%d sandboxes are served, want %d: %+v", st.Serving, n, st)
		}
		return nil
	})
}

func eventually(t testing.TB, limit time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v: %v", limit, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// exchange asks at 127.0.0.11:53 in the sandbox, from a socket of its own.
func (s *site) exchange(network string, message []byte, timeout time.Duration) ([]byte, error) {
	d := dialingResolver()
	if network == "tcp" {
		c, err := s.DialTCP(d, timeout)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(timeout))
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...)); err != nil {
			return nil, err
		}
		frame, err := readFrame(c, time.Now().Add(timeout))
		if err != nil {
			return nil, err
		}
		return frame[frameHeader:], nil
	}
	c, err := s.DialUDP(d)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(timeout))
	if _, err := c.Write(message); err != nil {
		return nil, err
	}
	buf := make([]byte, 65535)
	k, err := c.Read(buf)
	return buf[:k], err
}

// lookup returns the addresses of a name, or what went wrong.
func (s *site) lookup(network, name string, kind dnsmessage.Type, timeout time.Duration) string {
	s.t.Helper()
	reply, err := s.exchange(network, ask(s.t, name, kind, 0), timeout)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case err != nil:
		return err.Error()
	}
	return addressesIn(unpack(s.t, reply))
}

// addressesIn are the addresses of a reply, or its error.
func addressesIn(m dnsmessage.Message) string {
	if m.RCode != dnsmessage.RCodeSuccess {
		return strings.TrimPrefix(m.RCode.String(), "RCode")
	}
	var out []string
	for _, a := range m.Answers {
		switch b := a.Body.(type) {
		case *dnsmessage.AResource:
			out = append(out, netip.AddrFrom4(b.A).String())
		case *dnsmessage.AAAAResource:
			out = append(out, netip.AddrFrom16(b.AAAA).String())
		}
	}
	return strings.Join(out, " ")
}

func dialingResolver() kernel.Dialing {
	return kernel.Dialing{To: netip.MustParseAddrPort("127.0.0.11:53")}
}

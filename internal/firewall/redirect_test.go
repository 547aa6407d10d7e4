package firewall

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/internal/kernel/kerneltest"
)

// passes is where questions come from that a redirect lets pass.
var passes, loopback = netip.MustParseAddr("127.119.102.1"), netip.MustParseAddr("127.0.0.1")

// engineRules are the ways in which engines send 127.0.0.11:53 to their resolver.
func engineRules() map[string]string {
	legacy := func(iptables string) string {
		return iptables + ` -t nat -N DOCKER_OUTPUT
` + iptables + ` -t nat -I OUTPUT -d 127.0.0.11 -j DOCKER_OUTPUT
for p in udp tcp; do ` + iptables + ` -t nat -I DOCKER_OUTPUT -d 127.0.0.11 -p $p --dport 53 -j DNAT --to-destination 127.0.0.11:5300; done`
	}
	return map[string]string{
		"iptables-legacy": legacy("iptables-legacy"),
		"iptables-nft":    legacy("iptables-nft"),
		"nft": `nft -f - <<.
table ip docker-dns {
	chain dns-dnat {
		type nat hook output priority -100
		ip daddr 127.0.0.11 udp dport 53 counter dnat to 127.0.0.11:5300
		ip daddr 127.0.0.11 tcp dport 53 counter dnat to 127.0.0.11:5300
	}
}
.`,
	}
}

// named answers every packet and connection with its name.
func (ns namespace) named(t testing.TB, at, name string) {
	t.Helper()
	err := ns.do(func() error {
		u, err := net.ListenPacket("udp", at)
		if err != nil {
			return err
		}
		l, err := net.Listen("tcp", at)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _, _ = u.Close(), l.Close() })
		go func() {
			buf := make([]byte, 64)
			for {
				_, from, err := u.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = u.WriteTo([]byte(name), from)
			}
		}()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte(name))
				_ = c.Close()
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// answers says who answers at 127.0.0.11:53 to a question from an address.
func (ns namespace) answers(t testing.TB, network string, from netip.Addr) string {
	t.Helper()
	got := "nobody"
	local := net.Addr(net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)))
	if network == "tcp" {
		local = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	err := ns.do(func() error {
		d := net.Dialer{LocalAddr: local, Timeout: 5 * time.Second}
		c, err := d.Dial(network, "127.0.0.11:53")
		if err != nil {
			return nil // nobody
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if network == "udp" {
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
		}
		buf := make([]byte, 64)
		if n, err := c.Read(buf); err == nil {
			got = string(buf[:n])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func (ns namespace) wantAnswers(t testing.TB, when, want string) {
	t.Helper()
	for _, network := range []string{"udp", "tcp"} {
		if got := ns.answers(t, network, loopback); got != want {
			t.Errorf("%s, %s: %s answers, want %s", when, network, got, want)
		}
		if got := ns.answers(t, network, passes); got != "engine" {
			t.Errorf("%s, %s from the address that passes: %s answers, want the engine", when, network, got)
		}
	}
}

func redirectionIn(ns namespace) Redirection {
	return Redirection{
		Namespace: ns.file, Resolver: netip.MustParseAddrPort("127.0.0.11:53"), Pass: passes,
		UDP: 5400, TCP: 5400,
	}
}

// renewed is Renew, waited for.
func renewed(list ...*Redirect) map[*Redirect]error {
	var mu sync.Mutex
	errs := map[*Redirect]error{}
	new(Redirects).Renew(list, func(r *Redirect, err error) {
		mu.Lock()
		defer mu.Unlock()
		errs[r] = err
	})
	for _, r := range list {
		for r.renewing.Load() {
			runtime.Gosched()
		}
	}
	mu.Lock()
	defer mu.Unlock()
	return errs
}

// renew is it for one.
func renew(r *Redirect) error { return renewed(r)[r] }

func openRedirect(t testing.TB, r Redirection) *Redirect {
	t.Helper()
	out, err := new(Redirects).Open(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = out.Close() })
	return out
}

func TestRedirectBeforeTheEnginesRules(t *testing.T) {
	for way, rules := range engineRules() {
		for _, timed := range []bool{false, true} {
			t.Run(way+map[bool]string{true: "/timed", false: "/owner"}[timed], func(t *testing.T) {
				t.Parallel()
				ns := newNamespace(t)
				ns.named(t, "127.0.0.11:5300", "engine")
				ns.named(t, "127.0.0.11:5400", "weft")
				ns.sh(t, rules)
				ns.wantAnswers(t, "before", "engine")
				facts := redirectionIn(ns)
				facts.Timed = timed
				r := openRedirect(t, facts)
				if r.Timed() != timed {
					t.Errorf("timed is %v, want %v: this kernel has tables with an owner", r.Timed(), timed)
				}
				ns.wantAnswers(t, "open", "weft")
				if err := renew(r); err != nil {
					t.Error(err)
				}
				ns.wantAnswers(t, "renewed", "weft")
				for range 2 {
					if err := r.Close(); err != nil {
						t.Error(err)
					}
				}
				ns.wantAnswers(t, "closed", "engine")
				if left := ns.sh(t, "nft list tables"); strings.Contains(left, redirectTable) {
					t.Errorf("left behind:\n%s", left)
				}
			})
		}
	}
}

// Without programs and an engine, on any kernel: questions and replies find their way, and
// what is let pass goes where it was sent.
func TestRedirectOnThisKernel(t *testing.T) {
	kerneltest.Needs(t)
	t.Parallel()
	for _, timed := range []bool{false, true} {
		ns := newNamespace(t)
		ns.named(t, "127.0.0.11:53", "engine")
		ns.named(t, "127.0.0.11:5400", "weft")
		facts := redirectionIn(ns)
		facts.Timed = timed
		r := openRedirect(t, facts)
		ns.wantAnswers(t, "open", "weft")
		if err := errors.Join(renew(r), r.Close()); err != nil {
			t.Error(err)
		}
		ns.wantAnswers(t, "closed", "engine")
	}
}

// engineAndWeft is a namespace with both resolvers, and the engine's rules.
func engineAndWeft(t *testing.T) namespace {
	ns := newNamespace(t)
	ns.named(t, "127.0.0.11:5300", "engine")
	ns.named(t, "127.0.0.11:5400", "weft")
	ns.sh(t, engineRules()["nft"])
	return ns
}

// A redirect dies with its process, whatever kills it.
func TestRedirectDiesWithItsProcess(t *testing.T) {
	if path := os.Getenv("WEFT_TEST_REDIRECT"); path != "" {
		holdRedirect(path)
	}
	for _, timed := range []bool{false, true} {
		t.Run(map[bool]string{true: "timed", false: "owner"}[timed], func(t *testing.T) {
			t.Parallel()
			ns := engineAndWeft(t)
			cmd := exec.Command(os.Args[0], "-test.run=^TestRedirectDiesWithItsProcess$")
			cmd.Env = append(os.Environ(), "WEFT_TEST_REDIRECT="+ns.path())
			if timed {
				cmd.Env = append(cmd.Env, "WEFT_TEST_TIMED=1")
			}
			ready, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if n, err := ready.Read(make([]byte, 1)); n != 1 {
				t.Fatal("the process did not open its redirect", err)
			}
			ns.wantAnswers(t, "alive", "weft")
			// Tables of two processes that live cannot be confused.
			if !timed {
				if r, err := new(Redirects).Open(redirectionIn(ns)); !errors.Is(err, unix.EPERM) {
					t.Errorf("a second redirect: %v, %v, want EPERM", r, err)
				}
			}
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			died := time.Now()
			limit := time.Second
			if timed {
				limit = 10 * time.Second
			}
			for ns.answers(t, "udp", loopback) != "engine" {
				if time.Since(died) > limit {
					t.Fatalf("%v after its death the redirect holds", limit)
				}
			}
			ns.wantAnswers(t, "dead", "engine")
			// What an older process left is replaced.
			openRedirect(t, redirectionIn(ns))
			ns.wantAnswers(t, "the next process", "weft")
		})
	}
}

// holdRedirect is the other process.
func holdRedirect(path string) {
	f, err := os.Open(path)
	if err == nil {
		r := redirectionIn(namespace{f})
		r.Timed = os.Getenv("WEFT_TEST_TIMED") != ""
		_, err = new(Redirects).Open(r)
	}
	if err != nil {
		os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
	os.Stdout.WriteString("+")
	for {
		time.Sleep(time.Hour) // select {} would be a deadlock that Go ends the process for
	}
}

// Renewed, it holds beyond its life; then not, even if its process lives.
func TestRedirectIsRenewed(t *testing.T) {
	t.Parallel()
	for _, timed := range []bool{false, true} {
		t.Run(map[bool]string{true: "timed", false: "owner"}[timed], func(t *testing.T) {
			t.Parallel()
			renewedRedirect(t, timed)
		})
	}
}

func renewedRedirect(t *testing.T, timed bool) {
	ns := engineAndWeft(t)
	facts := redirectionIn(ns)
	facts.Timed, facts.life = timed, 2*time.Second
	r := openRedirect(t, facts)
	opened := time.Now()
	for time.Since(opened) < facts.life+time.Second/2 {
		if err := renew(r); err != nil {
			t.Fatal(err)
		}
		if got := ns.answers(t, "udp", loopback); got != "weft" {
			t.Fatalf("after %v: %s answers, want weft", time.Since(opened), got)
		}
	}
	renewed := time.Now()
	for ns.answers(t, "udp", loopback) != "engine" {
		if time.Since(renewed) > facts.life+time.Second {
			t.Fatal("a second after its life it holds")
		}
	}
	// Late is not too late.
	if err := renew(r); err != nil {
		t.Fatal(err)
	}
	ns.wantAnswers(t, "renewed late", "weft")

	if !timed { // nobody else can delete it
		return
	}
	ns.sh(t, "nft delete table ip "+redirectTable)
	if err := renew(r); !errors.Is(err, unix.ENOENT) {
		t.Errorf("renewing a table that somebody removed: %v, want ENOENT", err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// Nobody but its owner changes the table.
func TestRedirectOutlivesAFlush(t *testing.T) {
	t.Parallel()
	ns := engineAndWeft(t)
	openRedirect(t, redirectionIn(ns))
	ns.sh(t, "nft flush ruleset; "+engineRules()["nft"])
	ns.wantAnswers(t, "flushed", "weft")
}

func TestRedirectionWithoutSense(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	for name, break1 := range map[string]func(*Redirection){
		"all is caught": func(r *Redirection) { r.Pass = netip.Addr{} },
		"no port":       func(r *Redirection) { r.TCP = 0 },
		"IPv6":          func(r *Redirection) { r.Resolver = netip.MustParseAddrPort("[::1]:53") },
		"no resolver":   func(r *Redirection) { r.Resolver = netip.AddrPort{} },
	} {
		r := redirectionIn(ns)
		break1(&r)
		if _, err := new(Redirects).Open(r); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want %v", name, err, ErrInvalid)
		}
	}
}

// Many are renewed at once, and what is wrong with one is said of that one.
func TestRedirectsAreRenewed(t *testing.T) {
	t.Parallel()
	var redirects Redirects
	var list []*Redirect
	for i := range 4 {
		ns := newNamespace(t)
		facts := redirectionIn(ns)
		facts.Timed = i > 1
		r, err := redirects.Open(facts)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Close() })
		list = append(list, r)
		if i == 3 {
			ns.sh(t, "nft delete table ip "+redirectTable)
		}
	}
	if err := list[0].Close(); err != nil { // which nothing is wrong with
		t.Fatal(err)
	}
	errs := renewed(list...)
	for i, r := range list {
		err := errs[r]
		if broken := errors.Is(err, unix.ENOENT); broken != (i == 3) {
			t.Errorf("redirect %d: %v", i, err)
		}
	}
}

// Who is told that one could not be renewed may wait for somebody who closes the others.
func TestClosedWhileAFailureIsTold(t *testing.T) {
	t.Parallel()
	var list []*Redirect
	for range 3 {
		ns := newNamespace(t)
		facts := redirectionIn(ns)
		facts.Timed = true // whose table anybody can delete
		list = append(list, openRedirect(t, facts))
		ns.sh(t, "nft delete table ip "+redirectTable)
	}
	closed := make(chan error)
	told := sync.OnceFunc(func() {
		for _, r := range list {
			go func() { closed <- r.Close() }()
		}
		for range list {
			select {
			case err := <-closed:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(5 * time.Second):
				t.Error("one of them cannot be closed")
			}
		}
	})
	renewAll(nil, list, func(*Redirect, error) { told() })
}

// A sandbox that keeps the kernel at work does not keep the others from being renewed.
func TestRenewedBesideABusyOne(t *testing.T) {
	t.Parallel()
	var redirects Redirects
	var list []*Redirect
	for range perKeeper + 1 { // the last one is another thread's
		r, err := redirects.Open(redirectionIn(newNamespace(t)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Close() })
		list = append(list, r)
	}
	release := make(chan struct{})
	busy := make(chan struct{})
	go func() {
		_ = list[0].keeper.do(func() error {
			close(busy)
			<-release
			return nil
		})
	}()
	<-busy
	last := list[perKeeper]
	opened := last.renewed.Load()
	fine := func(_ *Redirect, err error) { t.Error(err) }
	redirects.Renew(list, fine)
	for last.renewed.Load() == opened || last.renewing.Load() {
		runtime.Gosched()
	}
	again := last.renewed.Load()
	redirects.Renew(list, fine)
	for last.renewed.Load() == again {
		runtime.Gosched()
	}
	if !list[0].renewing.Load() {
		t.Error("the busy one was renewed")
	}
	list[0].renewed.Store(0)
	if list[0].Holds() || !last.Holds() {
		t.Error("who holds is not known")
	}
	close(release)
	for list[0].renewing.Load() || !list[0].Holds() {
		runtime.Gosched()
	}
}

// A sandbox that keeps the kernel at work does not keep new ones from being opened: neither
// when its thread is known to be stuck, nor when it becomes so while they wait for it.
func TestOpenedBesideABusyOne(t *testing.T) {
	t.Parallel()
	var redirects Redirects
	busy, err := redirects.Open(redirectionIn(newNamespace(t)))
	if err != nil {
		t.Fatal(err)
	}
	release, begun, ended := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		ended <- busy.keeper.do(func() error {
			close(begun)
			<-release
			return nil
		})
	}()
	<-begun
	opened := make(chan *Redirect)
	for range 4 { // some find it busy, the others stuck
		ns := newNamespace(t)
		go func() {
			r, err := redirects.Open(redirectionIn(ns))
			if err != nil {
				t.Error(err)
			}
			opened <- r
		}()
	}
	for range 4 {
		select {
		case r := <-opened:
			if r == nil {
				continue
			}
			t.Cleanup(func() { _ = r.Close() })
			if r.keeper == busy.keeper {
				t.Error("the busy one's thread opened another one")
			}
		case <-time.After(10 * time.Second):
			t.Fatal("new sandboxes wait for the busy one's thread")
		}
	}
	close(release)
	if err := errors.Join(<-ended, busy.Close()); err != nil {
		t.Error(err)
	}
	if n := redirects.keepers.list[0].held; n != 0 {
		t.Errorf("the thread that was busy holds %d", n)
	}
}

// Questions without a checksum, as UDP allows, arrive like others.
func TestRedirectWithoutChecksums(t *testing.T) {
	t.Parallel()
	ns := engineAndWeft(t)
	ask := func() (got string) {
		err := ns.do(func() error {
			c, err := net.Dial("udp", "127.0.0.11:53")
			if err != nil {
				return err
			}
			defer c.Close()
			rc, err := c.(*net.UDPConn).SyscallConn()
			if err != nil {
				return err
			}
			var set error
			if err := rc.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, 1) }); err != nil {
				return err
			}
			_ = c.SetDeadline(time.Now().Add(2 * time.Second))
			_, err = c.Write([]byte("question"))
			buf := make([]byte, 64)
			n := 0
			if err == nil {
				n, err = c.Read(buf)
			}
			got = string(buf[:n])
			return errors.Join(set, err)
		})
		if err != nil {
			t.Error(err)
		}
		return got
	}
	if got := ask(); got != "engine" {
		t.Errorf("%s answers, want the engine", got)
	}
	openRedirect(t, redirectionIn(ns))
	if got := ask(); got != "weft" {
		t.Errorf("%s answers, want weft", got)
	}
}

// The thread that holds a redirect's socket holds nothing else of the process.
func TestKeeperHoldsNothingElse(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	openRedirect(t, redirectionIn(ns))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	_ = r.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the closed pipe reads %d, %v, want EOF: somebody has it open", n, err)
	}
}

// A sandbox's redirects are opened and closed again and again without leaving anything.
func TestRedirectsUseTheirKeepersAgain(t *testing.T) {
	t.Parallel()
	var redirects Redirects
	for range perKeeper + 1 {
		r, err := redirects.Open(redirectionIn(newNamespace(t)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Close() })
		if len(redirects.keepers.list) == 2 {
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	ns := newNamespace(t)
	for range 20 {
		r, err := redirects.Open(redirectionIn(ns))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(redirects.keepers.list); n != 2 {
		t.Errorf("%d keepers for %d redirects, want 2", n, perKeeper+1)
	}
	if n := redirects.keepers.list[1].held; n != 0 {
		t.Errorf("the second keeper holds %d", n)
	}
}

// A sandbox whose redirect was closed can go: nothing stays in it.
func TestRedirectLetsItsSandboxGo(t *testing.T) {
	t.Parallel()
	for _, timed := range []bool{false, true} {
		ns, other := newNamespace(t), newNamespace(t)
		ns.sh(t, "ip link add witness type veth peer netns "+other.path()+" name witness")
		facts := redirectionIn(ns)
		facts.Timed = timed
		if err := openRedirect(t, facts).Close(); err != nil {
			t.Fatal(err)
		}
		if err := ns.close(); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(5 * time.Second)
		for strings.Contains(other.sh(t, "ip -o link"), "witness") {
			if time.Now().After(deadline) {
				t.Fatalf("timed %v: the namespace lives on", timed)
			}
		}
	}
}

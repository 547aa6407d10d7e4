package firewall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// requireRoot skips a test that needs namespaces of its own.
func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: it makes network namespaces")
	}
}

// newNamespace makes a network namespace that lives as long as the test.
func newNamespace(t testing.TB) namespace {
	t.Helper()
	requireRoot(t)
	type result struct {
		ns  namespace
		err error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{err: err}
			return
		}
		ns, err := currentNamespace()
		made <- result{ns, err}
	}()
	r := <-made
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { _ = r.ns.close() })
	// A link-local address under duplicate detection cannot ask for neighbours.
	r.ns.sysctl(t, "ipv6/conf/default/accept_dad", "0")
	r.ns.sysctl(t, "ipv6/conf/default/dad_transmits", "0")
	if err := r.ns.do(loopbackUp); err != nil {
		t.Fatal(err)
	}
	return r.ns
}

// loopbackUp needs no program: the machine of a stock kernel has none.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

// path names the namespace to programs that this process starts.
func (ns namespace) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.fd()) }

// sh runs a shell script in the namespace and returns what it prints.
func (ns namespace) sh(t testing.TB, script string) string {
	t.Helper()
	out, err := ns.try(script)
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

// try runs a script that may fail; then what it complained of is returned too. ip complains
// of devices whose peer's namespace is just going, and succeeds.
func (ns namespace) try(script string) (string, error) {
	var out, complaints bytes.Buffer
	cmd := exec.Command("bash", "-ec", script)
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := ns.do(cmd.Run); err != nil {
		return out.String() + complaints.String(), err
	}
	return out.String(), nil
}

// sysctl sets a key of the namespace; keys that this kernel lacks are left out.
func (ns namespace) sysctl(t testing.TB, key, value string) {
	t.Helper()
	err := ns.do(func() error {
		return os.WriteFile("/proc/sys/net/"+key, []byte(value), 0o644)
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}

// newNFT returns the firewall of a namespace.
func newNFT(t testing.TB, ns namespace) *NFT {
	t.Helper()
	var fw *NFT
	err := ns.do(func() (err error) {
		fw, err = New(Config{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = fw.Close() })
	return fw
}

// serve answers on an address of the namespace with the client's address.
func (ns namespace) serve(t testing.TB, network string, at netip.AddrPort) {
	t.Helper()
	err := ns.do(func() error {
		if network == "udp" {
			c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
			if err == nil {
				t.Cleanup(func() { _ = c.Close() })
				go answerUDP(c)
			}
			return err
		}
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		if err == nil {
			t.Cleanup(func() { _ = l.Close() })
			go answerTCP(l)
		}
		return err
	})
	if err != nil {
		t.Fatalf("serve %s %v: %v", network, at, err)
	}
}

func answerTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().String())
		_ = c.Close()
	}
}

func answerUDP(c *net.UDPConn) {
	b := make([]byte, 64)
	for {
		_, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		_, _ = c.WriteToUDPAddrPort([]byte(from.Addr().Unmap().String()), from)
	}
}

const (
	// dropTimeout is how long an answer is waited for that must not come.
	dropTimeout = 400 * time.Millisecond
	// reachTimeout is how long one is waited for that must.
	reachTimeout = 5 * time.Second
)

// reach calls an address and returns the client's address as the server saw it;
// empty if there was no answer.
func (ns namespace) reach(network, to string, timeout time.Duration) string {
	seen := ""
	_ = ns.do(func() error {
		c, err := net.DialTimeout(network, to, timeout)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(timeout))
		if network == "udp" {
			if _, err := c.Write([]byte("who am I?")); err != nil {
				return err
			}
		}
		b := make([]byte, 64)
		n, err := c.Read(b)
		seen = string(b[:n])
		return err
	})
	return seen
}

// ping sends an ICMP echo request and fails the test without an answer.
func (ns namespace) ping(t testing.TB, to string) {
	t.Helper()
	network, request := "ip4:icmp", []byte{8, 0, 0xf7, 0xfe, 0, 1, 0, 0}
	if strings.Contains(to, ":") {
		network, request = "ip6:ipv6-icmp", []byte{128, 0, 0, 0, 0, 1, 0, 0}
	}
	err := ns.do(func() error {
		c, err := net.Dial(network, to)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		if _, err := c.Write(request); err != nil {
			return err
		}
		_ = c.SetReadDeadline(time.Now().Add(reachTimeout))
		_, err = c.Read(make([]byte, 64))
		return err
	})
	if err != nil {
		t.Errorf("ping %s: %v", to, err)
	}
}

// snapshot returns all that the firewalls of the namespace hold, less counters.
func (ns namespace) snapshot(t testing.TB) string {
	t.Helper()
	return ns.sh(t, `
		nft -s list ruleset
		for v in "" 6; do
			if grep -qx filter /proc/thread-self/net/ip${v}_tables_names 2>/dev/null; then
				ip${v}tables-legacy-save | sed '/^#/d; s/\[[0-9:]*\]//'
			fi
		done
		echo legacy: $(cat /proc/thread-self/net/ip_tables_names /proc/thread-self/net/ip6_tables_names 2>/dev/null)`)
}

// engine plays what a Docker engine does to the filter tables of a flavour.
func (ns namespace) engine(t testing.TB, flavour Flavour) {
	t.Helper()
	for _, v := range []string{"", "6"} {
		ns.sh(t, strings.ReplaceAll(`
			IPT -P FORWARD DROP
			IPT -N DOCKER-USER
			IPT -A DOCKER-USER -j RETURN
			IPT -A FORWARD -j DOCKER-USER
			IPT -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
			IPT -A FORWARD -i docker0 -j ACCEPT
		`, "IPT", "ip"+v+"tables-"+string(flavour)))
	}
}

func mustAddr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// testContext bounds what a test waits for.
func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute) // what hangs: a busy machine's firewalld takes its time
	t.Cleanup(cancel)
	return ctx
}

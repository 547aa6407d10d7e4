package kernel_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/kernel/kerneltest"
)

// ip runs the ip command in the test's namespace.
func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// inSandbox runs the ip command in a sandbox.
func inSandbox(t *testing.T, path string, args ...string) string {
	t.Helper()
	return kerneltest.Run(t, path, append([]string{"ip"}, args...)...)
}

// world is what the conformance test drives.
type world interface {
	EnsureBridge(b kernel.Bridge) (bool, error)
	RemoveAddrs(name string, addrs []netip.Prefix) error
	DeleteLink(name string) error
	AddVeth(v kernel.Veth) error
	Attach(a kernel.Attachment) (string, error)
	EnsurePort(v kernel.Veth) error
	SandboxExists(path string) bool
	LinkByName(name string) (kernel.Link, error)
	Links() ([]kernel.Link, error)
	Addresses() ([]kernel.Address, error)
	Detach(name string) error
	DeleteDoomed() error
}

// picture is what both worlds must agree on.
func picture(t *testing.T, w world) string {
	t.Helper()
	links, err := w.Links()
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := w.Addresses()
	if err != nil {
		t.Fatal(err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Index] = l.Name
	}
	var lines []string
	for _, l := range links {
		if l.Loopback {
			continue
		}
		line := fmt.Sprintf("%s kind=%s alias=%q master=%s group=%x mtu=%d up=%t", l.Name, l.Kind, l.Alias, names[l.Master], l.Group, l.MTU, l.Up)
		var own []string
		for _, a := range addrs {
			if a.Link == l.Index && !a.Prefix.Addr().IsLinkLocalUnicast() {
				own = append(own, a.Prefix.String())
			}
		}
		slices.Sort(own)
		lines = append(lines, line+" "+strings.Join(own, " "))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// TestConformance drives the real kernel and the fake with the same steps.
func TestConformance(t *testing.T) {
	host := kerneltest.Host(t)
	ns := kerneltest.Sandbox(t)
	fake := kernel.NewFake()
	fake.AddSandbox(ns)
	br := kernel.Bridge{Name: "wf-1", Alias: "weft network 1", MTU: 1400, IPv6: true, Addrs: prefixes("10.9.0.1/24", "fd00:9::1/64")}
	veth := kernel.Veth{Host: "wv-1", Peer: "wp-1", Bridge: "wf-1", MTU: 1400, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
	direct := kernel.Attachment{Veth: kernel.Veth{Host: "wv-2", Bridge: "wf-1", MTU: 1400, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}},
		Sandbox: ns, Prefix: "weft", Addrs: prefixes("10.9.0.2/24", "fd00:9::2/64")}
	second := direct
	second.Host, second.Addrs = "wv-3", prefixes("10.9.0.3/24")
	steps := []struct {
		name string
		do   func(w world) (string, error)
	}{
		{"adopt a bridge that is not there", func(w world) (string, error) {
			_, err := w.EnsureBridge(kernel.Bridge{Name: "none", Adopt: true})
			return "", err
		}},
		{"make a bridge", func(w world) (string, error) { made, err := w.EnsureBridge(br); return fmt.Sprint(made), err }},
		{"make it again", func(w world) (string, error) { made, err := w.EnsureBridge(br); return fmt.Sprint(made), err }},
		{"make a pair", func(w world) (string, error) { return "", w.AddVeth(veth) }},
		{"make it again", func(w world) (string, error) { return "", w.AddVeth(veth) }},
		{"pair without a bridge", func(w world) (string, error) {
			return "", w.AddVeth(kernel.Veth{Host: "wv-9", Peer: "wp-9", Bridge: "nobridge"})
		}},
		{"a veth is no bridge", func(w world) (string, error) { _, err := w.EnsureBridge(kernel.Bridge{Name: "wv-1"}); return "", err }},
		{"sandbox is there", func(w world) (string, error) { return fmt.Sprint(w.SandboxExists(ns)), nil }},
		{"no sandbox there", func(w world) (string, error) { return fmt.Sprint(w.SandboxExists(ns + "x")), nil }},
		{"attach", func(w world) (string, error) { return w.Attach(direct) }},
		{"attach again", func(w world) (string, error) { _, err := w.Attach(direct); return "", err }},
		{"attach a second one", func(w world) (string, error) { return w.Attach(second) }},
		{"attach nowhere", func(w world) (string, error) {
			a := direct
			a.Host, a.Sandbox = "wv-8", ns+"x"
			_, err := w.Attach(a)
			return "", err
		}},
		{"mend a port", func(w world) (string, error) {
			return "", w.EnsurePort(kernel.Veth{Host: "wv-1", Bridge: "wf-1", Isolated: true, Hairpin: true})
		}},
		{"take a port down", func(w world) (string, error) {
			return "", w.EnsurePort(kernel.Veth{Host: "wv-1", Bridge: "wf-1", Down: true})
		}},
		{"take it down again", func(w world) (string, error) {
			return "", w.EnsurePort(kernel.Veth{Host: "wv-1", Bridge: "wf-1", Down: true})
		}},
		{"bring it back", func(w world) (string, error) {
			return "", w.EnsurePort(kernel.Veth{Host: "wv-1", Bridge: "wf-1"})
		}},
		{"make a pair that is down", func(w world) (string, error) {
			return "", w.AddVeth(kernel.Veth{Host: "wv-4", Peer: "wp-4", Bridge: "wf-1", Down: true})
		}},
		{"make it again, up", func(w world) (string, error) {
			return "", w.AddVeth(kernel.Veth{Host: "wv-4", Peer: "wp-4", Bridge: "wf-1"})
		}},
		{"make it again, down", func(w world) (string, error) {
			return "", w.AddVeth(kernel.Veth{Host: "wv-4", Peer: "wp-4", Bridge: "wf-1", Down: true, Isolated: true})
		}},
		{"attach one that is down", func(w world) (string, error) {
			a := direct
			a.Host, a.Down, a.Addrs = "wv-5", true, prefixes("10.9.0.5/24", "fd00:9::5/64")
			return w.Attach(a)
		}},
		{"mend a port that is gone", func(w world) (string, error) {
			return "", w.EnsurePort(kernel.Veth{Host: "wv-7", Bridge: "wf-1"})
		}},
		{"detach", func(w world) (string, error) { return "", w.Detach("wv-1") }},
		{"detach what is gone", func(w world) (string, error) { return "", w.Detach("wv-7") }},
		{"delete the doomed", func(w world) (string, error) { return "", w.DeleteDoomed() }},
		{"delete none", func(w world) (string, error) { return "", w.DeleteDoomed() }},
		{"look for what is gone", func(w world) (string, error) { _, err := w.LinkByName("wv-1"); return "", err }},
		{"remove an address", func(w world) (string, error) {
			return "", w.RemoveAddrs("wf-1", prefixes("10.9.0.1/24", "10.8.0.1/24"))
		}},
		{"remove addresses of nothing", func(w world) (string, error) { return "", w.RemoveAddrs("none", prefixes("10.9.0.1/24")) }},
		{"delete the bridge", func(w world) (string, error) { return "", w.DeleteLink("wf-1") }},
		{"delete it again", func(w world) (string, error) { return "", w.DeleteLink("wf-1") }},
	}
	for _, s := range steps {
		got, err := s.do(host)
		want, fakeErr := s.do(fake)
		if got != want {
			t.Errorf("%s: kernel says %q, fake %q", s.name, got, want)
		}
		for _, kind := range []error{kernel.ErrNotFound, kernel.ErrExists, kernel.ErrNotBridge} {
			if errors.Is(err, kind) != errors.Is(fakeErr, kind) {
				t.Errorf("%s: kernel error %v, fake %v", s.name, err, fakeErr)
			}
		}
		if errors.Is(err, kernel.ErrNotBridge) && !strings.Contains(err.Error(), "is not a bridge but of kind ") {
			t.Errorf("%s: %v", s.name, err)
		}
		if (err == nil) != (fakeErr == nil) {
			t.Errorf("%s: kernel error %v, fake %v", s.name, err, fakeErr)
		}
		if d := cmp.Diff(picture(t, fake), picture(t, host)); d != "" {
			t.Errorf("%s (-fake +kernel):\n%s", s.name, d)
		}
	}
}

// TestAttach looks at the sandbox's side.
func TestAttach(t *testing.T) {
	host := kerneltest.Host(t)
	ns := kerneltest.Sandbox(t)
	if _, err := host.EnsureBridge(kernel.Bridge{Name: "wf-1", Addrs: prefixes("10.9.0.1/24")}); err != nil {
		t.Fatal(err)
	}
	name, err := host.Attach(kernel.Attachment{
		Veth:    kernel.Veth{Host: "wv-1", Bridge: "wf-1", MTU: 1300, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}},
		Sandbox: ns, Prefix: "weft", Addrs: prefixes("10.9.0.2/24"),
		Sysctls: []kernel.Sysctl{{Key: "net.ipv6.conf.IFNAME.disable_ipv6", Value: "1"}, {Key: "net.ipv4.conf.IFNAME.log_martians", Value: "1"}},
	})
	if err != nil || name != "weft0" {
		t.Fatalf("Attach: %q, %v", name, err)
	}
	out := inSandbox(t, ns, "-d", "addr", "show", "weft0")
	for _, want := range []string{"mtu 1300", "02:00:00:00:00:01", "inet 10.9.0.2/24", "state UP", "numtxqueues 1 "} {
		if !strings.Contains(out, want) {
			t.Errorf("the sandbox lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "inet6") {
		t.Errorf("IPv6 is on:\n%s", out)
	}
	if v, err := kerneltest.Try(ns, "cat", "/proc/sys/net/ipv4/conf/weft0/log_martians"); err != nil || strings.TrimSpace(v) != "1" {
		t.Errorf("sysctl in the sandbox: %q, %v", v, err)
	}
	// The host's own namespace is untouched, and the thread is back in it.
	if v, err := host.Sysctl("net.ipv4.conf.all.log_martians"); err != nil || v != "0" {
		t.Errorf("sysctl of the host: %q, %v", v, err)
	}
	if out := ip(t, "-o", "link", "show", "wv-1"); !strings.Contains(out, "master wf-1") {
		t.Errorf("host end: %s", out)
	}
}

// TestAttachDown: an attached pair that is down passes nothing and has its addresses,
// and passes everything once it is up.
func TestAttachDown(t *testing.T) {
	host := kerneltest.Host(t)
	ns := kerneltest.Sandbox(t)
	if _, err := host.EnsureBridge(kernel.Bridge{Name: "wf-1", Addrs: prefixes("10.9.0.1/24")}); err != nil {
		t.Fatal(err)
	}
	veth := kernel.Veth{Host: "wv-1", Bridge: "wf-1", Down: true}
	if _, err := host.Attach(kernel.Attachment{Veth: veth, Sandbox: ns, Prefix: "weft", Addrs: prefixes("10.9.0.2/24")}); err != nil {
		t.Fatal(err)
	}
	if out := inSandbox(t, ns, "addr", "show", "weft0"); !strings.Contains(out, "inet 10.9.0.2/24") || !strings.Contains(out, "NO-CARRIER") {
		t.Errorf("the sandbox has\n%s", out)
	}
	answers := func() bool {
		ok, err := host.Answers(netip.MustParseAddr("10.9.0.2"), 300*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if answers() {
		t.Error("it answers while it is down")
	}
	veth.Down = false
	if err := host.EnsurePort(veth); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); !answers(); {
		if time.Now().After(end) {
			t.Fatal("it does not answer when it is up")
		}
	}
	veth.Down = true
	if err := host.EnsurePort(veth); err != nil {
		t.Fatal(err)
	}
	if answers() {
		t.Error("it answers when it is down again")
	}
}

// TestAnnounce: who waits for an address on a bridge has it when it is announced, and
// need not ask again.
func TestAnnounce(t *testing.T) {
	host := kerneltest.Host(t)
	ns := kerneltest.Sandbox(t)
	if _, err := host.EnsureBridge(kernel.Bridge{Name: "wf-1", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	veth := kernel.Veth{Host: "wv-1", Bridge: "wf-1"}
	if _, err := host.Attach(kernel.Attachment{Veth: veth, Sandbox: ns, Prefix: "weft", Addrs: prefixes("10.9.0.2/24")}); err != nil {
		t.Fatal(err)
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !ok(); {
			if time.Now().After(end) {
				t.Fatalf("not in time: %s\n%s", what, inSandbox(t, ns, "neigh", "show"))
			}
		}
	}
	// An entry that nobody resolves any more: only the announcement can fill it.
	inSandbox(t, ns, "neigh", "add", "10.9.0.7", "lladdr", "02:00:00:00:00:99", "dev", "weft0", "nud", "stale")
	until("the announcement", func() bool {
		if err := host.Announce([]kernel.Neighbor{{Link: "wf-1", IP: addr("10.9.0.7"), MAC: station(7)}}); err != nil {
			t.Fatal(err)
		}
		return strings.Contains(inSandbox(t, ns, "neigh", "show", "10.9.0.7"), station(7).String())
	})
	if err := host.Announce([]kernel.Neighbor{{Link: "wf-none", IP: addr("10.9.0.7"), MAC: station(7)}}); !errors.Is(err, kernel.ErrNotFound) {
		t.Errorf("a bridge that is not there: %v", err)
	}
}

// TestPortFlags looks at isolation and hairpin.
func TestPortFlags(t *testing.T) {
	host := kerneltest.Host(t)
	if _, err := host.EnsureBridge(kernel.Bridge{Name: "wf-1"}); err != nil {
		t.Fatal(err)
	}
	if err := host.AddVeth(kernel.Veth{Host: "wv-1", Peer: "wp-1", Bridge: "wf-1", Isolated: true, Hairpin: true}); err != nil {
		t.Fatal(err)
	}
	out := ip(t, "-d", "link", "show", "wv-1")
	for _, want := range []string{"isolated on", "hairpin on"} {
		if !strings.Contains(out, want) {
			t.Errorf("port lacks %q:\n%s", want, out)
		}
	}
}

// TestSysctlOfDottedDevice makes sure that eth0.100 is one name.
func TestSysctlOfDottedDevice(t *testing.T) {
	host := kerneltest.Host(t)
	ip(t, "link", "add", "eth0.100", "type", "bridge")
	changed, err := host.EnsureSysctl(kernel.Sysctl{Key: "net.ipv4.conf.eth0.100.log_martians", Value: "1"})
	if err != nil || !changed {
		t.Fatalf("changed %t, %v", changed, err)
	}
	changed, err = host.EnsureSysctl(kernel.Sysctl{Key: "net.ipv4.conf.eth0.100.log_martians", Value: "1"})
	if err != nil || changed {
		t.Fatalf("again: changed %t, %v", changed, err)
	}
}

// TestRoutes sees on-link routes and routes over a gateway.
func TestRoutes(t *testing.T) {
	host := kerneltest.Host(t)
	if _, err := host.EnsureBridge(kernel.Bridge{Name: "wf-1", Addrs: prefixes("10.9.0.1/24"), IPv6: true}); err != nil {
		t.Fatal(err)
	}
	ip(t, "route", "add", "default", "via", "10.9.0.9")
	ip(t, "route", "add", "10.2.0.0/16", "via", "inet6", "fe80::1", "dev", "wf-1")
	ip(t, "route", "add", "10.3.0.0/16", "nexthop", "via", "inet6", "fe80::2", "dev", "wf-1", "nexthop", "via", "10.9.0.8")
	for i, kind := range []string{"blackhole", "unreachable", "prohibit", "throw"} {
		ip(t, "route", "add", kind, fmt.Sprintf("10.4.%d.0/24", i))
		ip(t, "-6", "route", "add", kind, fmt.Sprintf("fd04:%d::/64", i))
	}
	routes, err := host.Routes()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range routes {
		if r.Dst.Addr().Is4() || r.Dst.Addr().IsPrivate() {
			got = append(got, fmt.Sprintf("%s via %s, somebody's: %t", r.Dst, r.Gateway, r.Takes()))
		}
	}
	slices.Sort(got)
	want := []string{"0.0.0.0/0 via 10.9.0.9, somebody's: false", "10.2.0.0/16 via fe80::1, somebody's: true", "10.3.0.0/16 via fe80::2, somebody's: true"}
	for _, p := range []string{"10.4.0.0/24", "10.4.1.0/24", "10.4.2.0/24", "10.4.3.0/24"} {
		want = append(want, p+" via invalid IP, somebody's: false")
	}
	want = append(want, "10.9.0.0/24 via invalid IP, somebody's: true")
	for _, p := range []string{"fd04:1::/64", "fd04:2::/64", "fd04:3::/64", "fd04::/64"} {
		want = append(want, p+" via invalid IP, somebody's: false")
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("routes (-want +got):\n%s", d)
	}
}

// TestPortHolder names the socket that holds a port, and its cgroup.
func TestPortHolder(t *testing.T) {
	if os.Getenv("KERNEL_TEST_LISTEN") != "" { // the other process
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println(l.Addr().(*net.TCPAddr).Port)
		_, _ = io.Copy(io.Discard, os.Stdin) // until the parent closes it
		return
	}
	host := kerneltest.Host(t)
	ip(t, "link", "set", "lo", "up")
	dir := cgroup(t)
	listener := exec.Command(os.Args[0], "-test.run=^TestPortHolder$")
	listener.Env = append(os.Environ(), "KERNEL_TEST_LISTEN=1")
	group, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close()
	listener.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	in, err := listener.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := listener.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Start(); err != nil {
		t.Fatal(err)
	}
	var port uint16
	if _, err := fmt.Fscan(out, &port); err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	holder, err := host.PortHolder(unix.IPPROTO_TCP, at)
	if want := (kernel.Holder{Local: at, Unit: filepath.Base(dir)}); err != nil || holder != want {
		t.Errorf("holder %+v instead of %+v, %v", holder, want, err)
	}
	if err := errors.Join(in.Close(), listener.Wait()); err != nil {
		t.Error(err)
	}
	if _, err := host.PortHolder(unix.IPPROTO_TCP, at); !errors.Is(err, kernel.ErrNotFound) {
		t.Errorf("free port: %v", err)
	}
}

// cgroup makes a cgroup of version 2 that looks like a unit of systemd.
func cgroup(t *testing.T) string {
	t.Helper()
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/unified"); err == nil {
		root += "/unified"
	}
	dir, err := os.MkdirTemp(root, "weft-test-*.service") //nolint:usetesting // it must lie in that file system
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestWatch gets a hint for a new device.
func TestWatch(t *testing.T) {
	host := kerneltest.Host(t)
	hints, err := host.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ip(t, "link", "add", "x", "type", "bridge")
	select {
	case <-hints:
	case <-time.After(5 * time.Second):
		t.Fatal("no hint")
	}
}

// TestLater deletes many links by one message, and what is left at the end.
func TestLater(t *testing.T) {
	fake := kernel.NewFake()
	if _, err := fake.EnsureBridge(kernel.Bridge{Name: "wf-1"}); err != nil {
		t.Fatal(err)
	}
	later := kernel.NewLater(fake, 50*time.Millisecond, nil)
	for i := range 20 {
		v := kernel.Veth{Host: fmt.Sprintf("wv-%d", i), Peer: fmt.Sprintf("wp-%d", i), Bridge: "wf-1"}
		if err := errors.Join(fake.AddVeth(v), later.Delete(v.Host)); err != nil {
			t.Fatal(err)
		}
	}
	later.Forget(kernel.Flow{Proto: 17})
	if err := later.Run(canceled(t)); err != nil {
		t.Fatal(err)
	}
	links, err := fake.Links()
	if err != nil || len(links) != 2 { // lo and the bridge
		t.Errorf("%d links left, %v:\n%s", len(links), err, fake.Dump())
	}
	if n := fake.Deletions(); n != 1 {
		t.Errorf("%d deletions instead of one", n)
	}
	if got := fake.Forgotten(); len(got) != 1 {
		t.Errorf("forgotten: %v", got)
	}
}

// TestLinkNames: a device is known by its alternative names as well, and a card by the address
// with which it was made.
func TestLinkNames(t *testing.T) {
	h := kerneltest.Host(t)
	kerneltest.Run(t, "", "ip", "link", "add", "e0", "type", "veth", "peer", "name", "e1")
	kerneltest.Run(t, "", "ip", "link", "property", "add", "dev", "e0", "altname", "the-first-card-of-this-host")
	l, err := h.LinkByName("e0")
	if err != nil || !slices.Equal(l.AltNames, []string{"the-first-card-of-this-host"}) {
		t.Errorf("%+v, %v", l, err)
	}
}

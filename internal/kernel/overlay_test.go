package kernel_test

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/kernel/kerneltest"
)

// tunnelHost is a network namespace with a thread in it that does what it is told.
type tunnelHost struct {
	n     int // its number: 192.0.2.n, 10.5.0.10n, station n
	calls chan func()
	k     *kernel.Host
	path  string
}

func newTunnelHost(t *testing.T, n int) *tunnelHost {
	t.Helper()
	h := &tunnelHost{n: n, calls: make(chan func()), path: kerneltest.Sandbox(t)}
	go func() {
		runtime.LockOSThread() // never unlocked
		for f := range h.calls {
			f()
		}
	}()
	t.Cleanup(func() { close(h.calls) })
	fd, err := unix.Open(h.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	h.do(func() {
		if err = unix.Setns(fd, unix.CLONE_NEWNET); err == nil {
			h.k, err = kernel.Open(kernel.Config{})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.k.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *tunnelHost) do(f func()) {
	done := make(chan struct{})
	h.calls <- func() { defer close(done); f() }
	<-done
}

// ping sends one echo request and waits for the answer; more are sent after a
// second only, so that an answer within less is that to the first.
func (h *tunnelHost) ping(t *testing.T, to string) time.Duration {
	t.Helper()
	var ok bool
	var err error
	begin := time.Now()
	h.do(func() { ok, err = h.k.Answers(addr(to), 3*time.Second) })
	if err != nil || !ok {
		t.Errorf("host %d: %s does not answer, %v", h.n, to, err)
	}
	return time.Since(begin)
}

// ready waits until the host has its own addresses. The kernel takes IPv6 packets
// only after the event for the bridge's carrier, which comes with the first
// port, some milliseconds after it on a busy machine.
func (h *tunnelHost) ready(t *testing.T, own ...string) {
	t.Helper()
	inSandbox(t, h.path, "link", "set", "lo", "up")
	end := time.Now().Add(10 * time.Second)
	for _, to := range own {
		h.do(func() {
			for ok := false; !ok; {
				var err error
				if ok, err = h.k.Answers(addr(to), 100*time.Millisecond); err != nil || !ok && time.Now().After(end) {
					t.Errorf("host %d: own address %s is not ready, %v", h.n, to, err)
					return
				}
			}
		})
	}
}

// join makes the host take part in the network.
func (h *tunnelHost) join(t *testing.T, underlay netip.Addr) {
	t.Helper()
	h.do(func() {
		_, err := h.k.EnsureBridge(kernel.Bridge{Name: "wf-1", IPv6: true, NoSnooping: true, MAC: net.HardwareAddr{2, 0, 0, 0, 0, byte(h.n)}, MTU: 1400,
			Addrs:    prefixes(fmt.Sprintf("10.5.0.10%d/24", h.n), fmt.Sprintf("fd05::10%d/64", h.n)),
			Gateways: []netip.Addr{addr("10.5.0.1"), addr("fd05::1")}})
		if err == nil {
			_, err = h.k.EnsureVXLAN(kernel.VXLAN{Name: "wx-1", VNI: 5000, Port: 4790, Local: underlay, MTU: 1400, Bridge: "wf-1"})
		}
		if err != nil {
			t.Error(err)
		}
	})
}

func (h *tunnelHost) apply(t *testing.T, c kernel.ForwardingChanges) {
	t.Helper()
	h.do(func() {
		if err := h.k.ApplyForwarding(c); err != nil {
			t.Error(err)
		}
	})
}

// TestTunnelPath sends packets between two hosts whose tables were programmed
// ahead: the first one arrives at once, and without entries frames are flooded.
func TestTunnelPath(t *testing.T) {
	for _, underlay := range []string{"192.0.2.%d", "fd99::%d"} {
		t.Run(underlay, func(t *testing.T) {
			hosts := []*tunnelHost{newTunnelHost(t, 1), newTunnelHost(t, 2)}
			inSandbox(t, hosts[0].path, "link", "add", "u0", "type", "veth", "peer", "name", "u0", "netns", hosts[1].path)
			at := func(n int) netip.Addr { return addr(fmt.Sprintf(underlay, n)) }
			for _, h := range hosts {
				bits := "/24"
				if at(1).Is6() {
					bits = "/64"
				}
				for _, n := range []int{h.n, 50 + h.n} {
					args := []string{"addr", "add", at(n).String() + bits, "dev", "u0"}
					if at(1).Is6() {
						args = append(args, "nodad")
					}
					inSandbox(t, h.path, args...)
				}
				inSandbox(t, h.path, "link", "set", "u0", "up")
				h.join(t, at(h.n))
				h.ready(t, fmt.Sprintf("fd05::10%d", h.n), at(h.n).String())
			}
			entriesOf := func(n int) kernel.Forwarding {
				return remote(n, at(n).String(), fmt.Sprintf("10.5.0.10%d", n), fmt.Sprintf("fd05::10%d", n))
			}
			for i, h := range hosts {
				h.apply(t, kernel.ForwardingChanges{Add: entriesOf(2 - i)})
			}
			hosts[0].ping(t, at(2).String()) // the underlay is up
			for _, to := range []string{"10.5.0.102", "fd05::102"} {
				// The bound is a second, the time of a lost first packet; the value is logged.
				if took := hosts[0].ping(t, to); took > time.Second {
					t.Errorf("the first answer of %s takes %v", to, took)
				} else {
					t.Logf("the first answer of %s takes %v", to, took)
				}
			}
			// Another address of the host, changed in place: the entries stay.
			hosts[0].do(func() {
				v := kernel.VXLAN{Name: "wx-1", VNI: 5000, Port: 4790, Local: at(51), MTU: 1400, Bridge: "wf-1"}
				if change, err := hosts[0].k.EnsureVXLAN(v); err != nil || change != kernel.Mended {
					t.Errorf("%d, %v", change, err)
				}
			})
			hosts[0].ping(t, "10.5.0.102")
			// Nothing is known but who takes part: ARP and ND find the way.
			for i, h := range hosts {
				h.apply(t, kernel.ForwardingChanges{Add: flood(at(2 - i).String()), Delete: entriesOf(2 - i)})
			}
			hosts[1].ping(t, "10.5.0.101")
			hosts[1].ping(t, "fd05::101")
			// A host that is not named gets nothing.
			hosts[0].apply(t, kernel.ForwardingChanges{Delete: flood(at(2).String())})
			hosts[0].do(func() {
				if ok, err := hosts[0].k.Answers(addr("10.5.0.177"), 100*time.Millisecond); ok || err != nil {
					t.Errorf("nobody answers: %t, %v", ok, err)
				}
			})
		})
	}
}

// TestGatewayIsNoSender looks at what the host asks when it must answer a
// container from the gateway's address and does not know the container: the ARP
// request carries the host's own address.
func TestGatewayIsNoSender(t *testing.T) {
	host := kerneltest.Host(t)
	_, err := host.EnsureBridge(kernel.Bridge{Name: "wf-1", Addrs: prefixes("10.5.0.101/24"), Gateways: []netip.Addr{addr("10.5.0.1")}})
	if err != nil {
		t.Fatal(err)
	}
	ip(t, "link", "add", "x", "master", "wf-1", "type", "veth", "peer", "name", "y")
	ip(t, "link", "set", "x", "up")
	ip(t, "link", "set", "y", "up")
	fd := kerneltest.Tap(t, "", "y", unix.ETH_P_ARP)
	conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 5, 0, 1)}, &net.UDPAddr{IP: net.IPv4(10, 5, 0, 11), Port: 9})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, 128)
	n, _, err := unix.Recvfrom(fd, frame, 0)
	if err != nil || n < 42 {
		t.Fatalf("no ARP request: %d bytes, %v", n, err)
	}
	if sender := netip.AddrFrom4([4]byte(frame[28:32])); sender != addr("10.5.0.101") {
		t.Errorf("the sender is %s", sender)
	}
}

// TestNeighborsStay while ports of the bridge come and go: its MAC is fixed, and
// so are its neighbours and its MTU.
func TestNeighborsStay(t *testing.T) {
	host := kerneltest.Host(t)
	tunnel(t, host)
	if _, err := host.EnsureBridge(kernel.Bridge{Name: "wf-1", IPv6: true, MTU: 1400}); err != nil {
		t.Fatal(err)
	}
	f := remote(1, "192.0.2.2", "10.5.0.11", "fd05::11")
	if err := host.ApplyForwarding(kernel.ForwardingChanges{Add: f}); err != nil {
		t.Fatal(err)
	}
	if err := host.AddVeth(kernel.Veth{Host: "wv-1", Peer: "wp-1", Bridge: "wf-1", MTU: 1300}); err != nil {
		t.Fatal(err)
	}
	change, err := host.EnsureVXLAN(kernel.VXLAN{Name: "wx-1", VNI: 8, Port: 4790, Local: addr("192.0.2.1"), Bridge: "wf-1"})
	if err != nil || change != kernel.Made {
		t.Fatalf("%d, %v", change, err)
	}
	for _, name := range []string{"wx-1", "wv-1"} {
		if err := host.DeleteLink(name); err != nil {
			t.Fatal(err)
		}
		neighbors, err := host.Neighbors("wf-1")
		if err != nil || len(neighbors) != 2 {
			t.Errorf("without %s: %v, %v", name, neighbors, err)
		}
		if l, err := host.LinkByName("wf-1"); err != nil || l.MTU != 1400 {
			t.Errorf("without %s: MTU %d, %v", name, l.MTU, err)
		}
	}
}

// TestWatchAddress gets a hint when an address of the underlay changes.
func TestWatchAddress(t *testing.T) {
	host := kerneltest.Host(t)
	ip(t, "link", "add", "u0", "type", "bridge")
	hints, err := host.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ip(t, "addr", "add", "192.0.2.1/24", "dev", "u0")
	select {
	case <-hints:
	case <-time.After(5 * time.Second):
		t.Fatal("no hint")
	}
}

// TestFakeTunnel prints itself, and has a process that holds the UDP port.
func TestFakeTunnel(t *testing.T) {
	fake := kernel.NewFake()
	fake.HoldUDPPort(4790, true)
	if _, err := fake.EnsureBridge(kernel.Bridge{Name: "wf-1"}); err != nil {
		t.Fatal(err)
	}
	v := kernel.VXLAN{Name: "wx-1", VNI: 7, Port: 4790, Local: addr("192.0.2.1"), Bridge: "wf-1"}
	if _, err := fake.EnsureVXLAN(v); err == nil || !strings.Contains(err.Error(), "4790") {
		t.Errorf("the port is held: %v", err)
	}
	fake.HoldUDPPort(4790, false)
	if _, err := fake.EnsureVXLAN(v); err != nil {
		t.Fatal(err)
	}
	if err := fake.ApplyForwarding(kernel.ForwardingChanges{Add: join(flood("192.0.2.2"), remote(1, "192.0.2.2", "10.5.0.11"))}); err != nil {
		t.Fatal(err)
	}
	want := `lo kind= mtu=65536 up=true
wf-1 kind=bridge mtu=1500 up=true
  neigh 10.5.0.11 dev wf-1 lladdr 02:00:00:00:00:01
wx-1 kind=vxlan mtu=1500 up=true master=wf-1 vni=7 port=4790 local=192.0.2.1
  fdb 00:00:00:00:00:00 dev wx-1 dst 192.0.2.2
  fdb 02:00:00:00:00:01 dev wx-1 dst 192.0.2.2
  fdb 02:00:00:00:00:01 dev wx-1 master
`
	if got := fake.Dump(); got != want {
		t.Errorf("dump:\n%s", got)
	}
}

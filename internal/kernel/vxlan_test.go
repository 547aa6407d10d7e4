package kernel_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/kernel/kerneltest"
)

// tunnels is what the conformance test of VXLAN devices and their entries drives.
type tunnels interface {
	world
	EnsureVXLAN(v kernel.VXLAN) (kernel.Change, error)
	VXLANs() ([]kernel.VXLAN, error)
	ApplyForwarding(c kernel.ForwardingChanges) error
	FDB(link string) ([]kernel.FDBEntry, error)
	Neighbors(link string) ([]kernel.Neighbor, error)
	RouteTo(to netip.Addr) (kernel.Path, error)
}

var (
	_ tunnels = (*kernel.Host)(nil)
	_ tunnels = (*kernel.Fake)(nil)
)

// entries prints what is programmed for the devices of that name, sorted.
func entries(t *testing.T, w tunnels, names ...string) string {
	t.Helper()
	var lines []string
	for _, name := range names {
		fdb, err := w.FDB(name)
		neighbors, err2 := w.Neighbors(name)
		if errors.Is(err, kernel.ErrNotFound) && errors.Is(err2, kernel.ErrNotFound) {
			lines = append(lines, "no "+name)
			continue
		}
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		for _, e := range fdb {
			lines = append(lines, e.String())
		}
		for _, n := range neighbors {
			lines = append(lines, n.String())
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// station is the MAC 02:00:00:00:00:n.
func station(n int) kernel.MAC { return kernel.MAC{2, 0, 0, 0, byte(n >> 8), byte(n)} }

// remote is everything that a container on another host needs.
func remote(n int, host string, ips ...string) kernel.Forwarding {
	f := kernel.Forwarding{FDB: []kernel.FDBEntry{{Link: "wx-1", MAC: station(n), Dst: addr(host)}, {Link: "wx-1", MAC: station(n)}}}
	for _, ip := range ips {
		f.Neighbors = append(f.Neighbors, kernel.Neighbor{Link: "wf-1", IP: addr(ip), MAC: station(n)})
	}
	return f
}

func join(parts ...kernel.Forwarding) kernel.Forwarding {
	var f kernel.Forwarding
	for _, p := range parts {
		f.FDB = append(f.FDB, p.FDB...)
		f.Neighbors = append(f.Neighbors, p.Neighbors...)
	}
	return f
}

func flood(hosts ...string) kernel.Forwarding {
	var f kernel.Forwarding
	for _, h := range hosts {
		f.FDB = append(f.FDB, kernel.FDBEntry{Link: "wx-1", Dst: addr(h)})
	}
	return f
}

// tunnelStep is one call to both worlds.
type tunnelStep struct {
	name string
	do   func(w tunnels) (string, error)
}

// TestTunnelConformance drives the real kernel and the fake with the same steps.
func TestTunnelConformance(t *testing.T) {
	host := kerneltest.Host(t)
	fake := kernel.NewFake()
	ip(t, "link", "set", "lo", "up")
	for _, step := range tunnelSteps() {
		got, err := step.do(host)
		want, fakeErr := step.do(fake)
		if got != want {
			t.Errorf("%s: kernel says %q, fake %q", step.name, got, want)
		}
		for _, kind := range []error{kernel.ErrNotFound, kernel.ErrExists, kernel.ErrNotBridge, kernel.ErrNotVXLAN,
			kernel.ErrVNIInUse, kernel.ErrPortInUse, kernel.ErrInvalid} {
			if errors.Is(err, kind) != errors.Is(fakeErr, kind) {
				t.Errorf("%s: kernel error %v, fake %v", step.name, err, fakeErr)
			}
		}
		if (err == nil) != (fakeErr == nil) {
			t.Errorf("%s: kernel error %v, fake %v", step.name, err, fakeErr)
		}
		if d := cmp.Diff(picture(t, fake), picture(t, host)); d != "" {
			t.Errorf("%s (-fake +kernel):\n%s", step.name, d)
		}
		if d := cmp.Diff(entries(t, fake, "wx-1", "wf-1"), entries(t, host, "wx-1", "wf-1")); d != "" {
			t.Errorf("%s: entries (-fake +kernel):\n%s", step.name, d)
		}
	}
}

func tunnelSteps() []tunnelStep {
	vx := kernel.VXLAN{Name: "wx-1", Alias: "weft network 1", VNI: 5000, Port: 4790, Local: addr("192.0.2.1"), MTU: 1450, Bridge: "wf-1",
		MAC: net.HardwareAddr{2, 0, 0, 0, 9, 9}}
	ensure := func(name string, change func(v *kernel.VXLAN)) tunnelStep {
		return tunnelStep{name, func(w tunnels) (string, error) {
			v := vx
			change(&v)
			made, err := w.EnsureVXLAN(v)
			list, listErr := w.VXLANs()
			for i := range list {
				list[i].MAC = nil
			}
			return fmt.Sprintf("%d %+v", made, list), errors.Join(err, listErr)
		}}
	}
	apply := func(name string, add, del kernel.Forwarding) tunnelStep {
		return tunnelStep{name, func(w tunnels) (string, error) {
			return "", w.ApplyForwarding(kernel.ForwardingChanges{Add: add, Delete: del})
		}}
	}
	as := func(*kernel.VXLAN) {}
	bridge := func(name string, mtu int) tunnelStep {
		return tunnelStep{name, func(w tunnels) (string, error) {
			_, err := w.EnsureBridge(kernel.Bridge{Name: "wf-1", IPv6: true, MTU: mtu, NoSnooping: true, MAC: net.HardwareAddr{2, 0, 0, 0, 8, 1},
				Addrs: prefixes("10.5.0.101/24", "fd05::101/64"), Gateways: []netip.Addr{addr("10.5.0.1"), addr("fd05::1")}})
			return "", err
		}}
	}
	none := kernel.Forwarding{}
	one := remote(1, "192.0.2.2", "10.5.0.11", "fd05::11")
	return []tunnelStep{
		ensure("without its bridge", as),
		bridge("a bridge", 1450),
		ensure("VNI 0", func(v *kernel.VXLAN) { v.VNI = 0 }),
		ensure("VNI of 25 bits", func(v *kernel.VXLAN) { v.VNI = 1 << 24 }),
		ensure("port 0", func(v *kernel.VXLAN) { v.Port = 0 }),
		ensure("no address", func(v *kernel.VXLAN) { v.Local = netip.Addr{} }),
		ensure("multicast address", func(v *kernel.VXLAN) { v.Local = addr("239.1.1.1") }),
		ensure("long name", func(v *kernel.VXLAN) { v.Name = "wx-0123456789abc" }),
		ensure("make", as),
		ensure("make again", as),
		ensure("a bridge is no tunnel", func(v *kernel.VXLAN) { v.Name = "wf-1" }),
		ensure("in no bridge", func(v *kernel.VXLAN) { v.Name, v.Bridge = "wx-2", "wx-1" }),
		ensure("VNI of another device", func(v *kernel.VXLAN) { v.Name = "wx-2" }),
		ensure("VNI of another device, other family", func(v *kernel.VXLAN) { v.Name, v.Local = "wx-6", addr("fd99::1") }),
		ensure("highest VNI", func(v *kernel.VXLAN) { v.Name, v.VNI = "wx-7", kernel.MaxVNI }),
		apply("a container elsewhere", one, none),
		apply("the same again", one, none),
		apply("hosts to flood to", flood("192.0.2.2", "192.0.2.3", "192.0.2.4"), none),
		apply("the same again", flood("192.0.2.3"), none),
		apply("a host leaves", none, flood("192.0.2.3")),
		apply("again", none, flood("192.0.2.3", "192.0.2.99")),
		apply("the container moves", remote(1, "192.0.2.3"), kernel.Forwarding{FDB: one.FDB[:1]}),
		apply("the address gets another container", remote(2, "192.0.2.2", "10.5.0.11"), kernel.Forwarding{Neighbors: one.Neighbors[:1]}),
		apply("what is added and deleted stays", one, one),
		apply("one of several hosts, too", flood("192.0.2.2"), flood("192.0.2.2", "192.0.2.4")),
		apply("unknown things go", none, remote(77, "192.0.2.2", "10.5.0.77", "fd05::77")),
		apply("things of no device go", none, kernel.Forwarding{FDB: []kernel.FDBEntry{{Link: "gone", MAC: station(1)}},
			Neighbors: []kernel.Neighbor{{Link: "gone", IP: addr("10.5.0.9"), MAC: station(1)}}}),
		apply("a device is not there", join(remote(3, "192.0.2.3", "10.5.0.13"), kernel.Forwarding{FDB: []kernel.FDBEntry{{Link: "gone", MAC: station(1)}}}), none),
		apply("nonsense among sense", join(remote(4, "192.0.2.3", "10.5.0.14"),
			kernel.Forwarding{FDB: []kernel.FDBEntry{{Link: "wx-1"}}},                                          // nowhere
			kernel.Forwarding{FDB: []kernel.FDBEntry{{Link: "wx-1", MAC: station(1), Dst: addr("224.0.0.1")}}}, // to a group
			kernel.Forwarding{Neighbors: []kernel.Neighbor{{Link: "wf-1", IP: addr("10.5.0.15")}}}), none),     // without an address
		apply("another family among sense", join(remote(5, "fd99::2"), remote(6, "192.0.2.3", "fd05::16")), none), // the tunnel is IPv4
		bridge("another MTU", 1400),
		ensure("mend MTU and local address", func(v *kernel.VXLAN) { v.MTU, v.Local = 1400, addr("192.0.2.9") }),
		ensure("mend alias and MAC", func(v *kernel.VXLAN) {
			v.MTU, v.Local, v.Alias, v.MAC = 1400, addr("192.0.2.9"), "other", net.HardwareAddr{2, 0, 0, 0, 9, 8}
		}),
		{"take it out of service", func(w tunnels) (string, error) { return "", w.Detach("wx-6") }},
		ensure("a doomed device", func(v *kernel.VXLAN) { v.Name, v.Local = "wx-6", addr("fd99::1") }),
		{"take it out of service again", func(w tunnels) (string, error) { return "", w.Detach("wx-6") }},
		ensure("VNI of a doomed device", func(v *kernel.VXLAN) { v.Name, v.Local = "wx-8", addr("fd99::1") }),
		{"take it out of service, too", func(w tunnels) (string, error) { return "", w.Detach("wx-8") }},
		{"delete the doomed", func(w tunnels) (string, error) { return "", w.DeleteDoomed() }},
		ensure("another VNI", func(v *kernel.VXLAN) { v.VNI = 5001 }),
		apply("a container elsewhere", one, none),
		ensure("another port", func(v *kernel.VXLAN) { v.VNI, v.Port = 5001, 4791 }),
		apply("a container elsewhere", one, none),
		ensure("another family", func(v *kernel.VXLAN) { v.VNI, v.Port, v.Local = 5001, 4791, addr("fd99::1") }),
		apply("a container elsewhere", remote(1, "fd99::2", "10.5.0.11"), none),
		{"the bridge goes", func(w tunnels) (string, error) { return "", w.DeleteLink("wf-1") }},
		apply("entries of the bridge", none, kernel.Forwarding{FDB: []kernel.FDBEntry{{Link: "wx-1", MAC: station(1)}}}),
		bridge("another bridge", 1450),
		ensure("into it", func(v *kernel.VXLAN) { v.VNI, v.Port, v.Local = 5001, 4791, addr("fd99::1") }),
		{"route to nowhere", func(w tunnels) (string, error) { _, err := w.RouteTo(addr("203.0.113.1")); return "", err }},
		{"route to nobody", func(w tunnels) (string, error) { _, err := w.RouteTo(netip.Addr{}); return "", err }},
		{"delete", func(w tunnels) (string, error) { return "", w.DeleteLink("wx-1") }},
		{"entries of nothing", func(w tunnels) (string, error) { _, err := w.FDB("wx-1"); return "", err }},
		{"neighbours of nothing", func(w tunnels) (string, error) { _, err := w.Neighbors("wx-1"); return "", err }},
	}
}

// TestVXLANDevice looks at the device with the eyes of ip(8).
func TestVXLANDevice(t *testing.T) {
	for _, local := range []string{"192.0.2.1", "fd99::1"} {
		t.Run(local, func(t *testing.T) {
			host := kerneltest.Host(t)
			if _, err := host.EnsureBridge(kernel.Bridge{Name: "wf-1", NoSnooping: true}); err != nil {
				t.Fatal(err)
			}
			v := kernel.VXLAN{Name: "wx-1", VNI: 7, Port: 4790, Local: addr(local), MTU: 1450, Bridge: "wf-1"}
			if change, err := host.EnsureVXLAN(v); err != nil || change != kernel.Made {
				t.Fatalf("%d, %v", change, err)
			}
			want := []string{"vxlan id 7 local " + local, "dstport 4790", "nolearning", "ttl auto", "noudp6zerocsumtx", "noudp6zerocsumrx", "noudpcsum",
				"mtu 1450", "master wf-1", "state forwarding", "hairpin off", "learning off", "flood on", "mcast_flood on", "bcast_flood on",
				"neigh_suppress on", "isolated off", "<BROADCAST,MULTICAST,UP,LOWER_UP>"}
			look := func() {
				t.Helper()
				out := ip(t, "-d", "link", "show", "wx-1")
				for _, w := range want {
					if !strings.Contains(out, " "+w) {
						t.Errorf("the device lacks %q:\n%s", w, out)
					}
				}
				for _, w := range []string{"proxy ", "l2miss", "l3miss", "rsc", " tos ", " df "} {
					if strings.Contains(strings.ReplaceAll(out, "proxy_arp", ""), " "+w) {
						t.Errorf("the device has %q:\n%s", w, out)
					}
				}
			}
			look()
			if out := ip(t, "-6", "addr", "show", "wx-1"); out != "" {
				t.Errorf("IPv6 is on:\n%s", out)
			}
			// Everything that an operator may have turned is turned back.
			for _, args := range [][]string{
				{"link", "set", "wx-1", "down"}, {"link", "set", "wx-1", "nomaster"}, {"link", "set", "wx-1", "mtu", "1300"},
				{"link", "set", "wx-1", "type", "bridge_slave", "learning", "on", "flood", "off", "neigh_suppress", "off"},
				{"link", "set", "wx-1", "type", "vxlan", "learning"}, {"link", "set", "wx-1", "type", "vxlan", "tos", "inherit"},
			} {
				ip(t, args...)
				if change, err := host.EnsureVXLAN(v); err != nil || change != kernel.Mended {
					t.Errorf("after ip %v: %d, %v", args, change, err)
				}
				look()
				if change, err := host.EnsureVXLAN(v); err != nil || change != kernel.Kept {
					t.Errorf("again after ip %v: %d, %v", args, change, err)
				}
				if args[len(args)-1] == "nomaster" { // the next but one needs a port
					look()
				}
			}
		})
	}
}

// TestVXLANTaken tells who has what a device needs, and leaves nothing half made.
func TestVXLANTaken(t *testing.T) {
	host := kerneltest.Host(t)
	if _, err := host.EnsureBridge(kernel.Bridge{Name: "wf-1"}); err != nil {
		t.Fatal(err)
	}
	v := kernel.VXLAN{Name: "wx-1", VNI: 7, Port: 4790, Local: addr("192.0.2.1"), Bridge: "wf-1"}
	refused := func(kind error, words ...string) {
		t.Helper()
		_, err := host.EnsureVXLAN(v)
		if !errors.Is(err, kind) {
			t.Fatalf("error %v instead of %v", err, kind)
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q lacks %q", err, w)
			}
		}
		if _, err := host.LinkByName("wx-1"); !errors.Is(err, kernel.ErrNotFound) {
			t.Errorf("the device remains: %v", err)
		}
	}
	conn, err := net.ListenPacket("udp4", "0.0.0.0:4790")
	if err != nil {
		t.Fatal(err)
	}
	refused(kernel.ErrPortInUse, "4790", "0.0.0.0:4790", "uid 0")
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	// Two devices share a port only with equal flags.
	ip(t, "link", "add", "foreign", "type", "vxlan", "id", "9", "dstport", "4790", "local", "192.0.2.1", "gbp")
	ip(t, "link", "set", "foreign", "up")
	refused(kernel.ErrPortInUse, "4790", "foreign", "VNI 9")
	ip(t, "link", "del", "foreign")
	ip(t, "link", "add", "foreign", "type", "vxlan", "id", "7", "dstport", "4790", "local", "192.0.2.1")
	ip(t, "link", "set", "foreign", "up")
	refused(kernel.ErrVNIInUse, "VNI 7", "foreign")
	holder, err := host.PortHolder(unix.IPPROTO_UDP, netip.MustParseAddrPort("0.0.0.0:4790"))
	if err != nil || holder.Local.Port() != 4790 {
		t.Errorf("the kernel's own socket is not seen: %+v, %v", holder, err)
	}
	ip(t, "link", "set", "foreign", "name", "wx-2")
	v.Name, v.VNI = "wx-2", 8
	if _, err := host.EnsureVXLAN(v); !errors.Is(err, kernel.ErrExists) {
		t.Errorf("a foreign device: %v", err)
	}
	ip(t, "link", "del", "wx-2")
	if _, err := host.EnsureVXLAN(v); err != nil {
		t.Error(err)
	}
}

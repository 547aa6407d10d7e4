package kernel_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/kernel/kerneltest"
)

// childWorld is what the conformance test of children drives.
type childWorld interface {
	EnsureVLAN(v kernel.VLAN) (bool, error)
	EnsureDummy(name, alias string) (bool, error)
	AddChild(c kernel.Child) error
	TryChild(c kernel.Child) error
	AttachChild(a kernel.ChildAttachment) (string, error)
	DetachChild(sandbox, alias string) error
	RetireChild(sandbox, alias string) (finish func() error, err error)
	ParentOf(sandbox, alias string) (index int, err error)
	EnsureChild(s kernel.ChildState) error
	DeleteLink(name string) error
	Links() ([]kernel.Link, error)
}

// childPicture is what both worlds must agree on.
func childPicture(t *testing.T, w childWorld) string {
	t.Helper()
	links, err := w.Links()
	if err != nil {
		t.Fatal(err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Index] = l.Name
	}
	var lines []string
	for _, l := range links {
		if !l.Loopback && l.Kind != "veth" {
			lines = append(lines, fmt.Sprintf("%s kind=%s alias=%q on=%s vlan=%d group=%x mtu=%d up=%t", l.Name, l.Kind, l.Alias, names[l.Parent], l.VLAN, l.Group, l.MTU, l.Up))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// childStep is one step of a conformance test.
type childStep struct {
	name string
	do   func(w childWorld) (string, error)
}

// conform drives both worlds.
func conform(t *testing.T, host, fake childWorld, steps []childStep) {
	t.Helper()
	for _, s := range steps {
		got, err := s.do(host)
		want, fakeErr := s.do(fake)
		if got != want {
			t.Errorf("%s: kernel says %q, fake %q", s.name, got, want)
		}
		for _, kind := range []error{kernel.ErrNotFound, kernel.ErrExists, kernel.ErrBusy} {
			if errors.Is(err, kind) != errors.Is(fakeErr, kind) {
				t.Errorf("%s: kernel error %v, fake %v", s.name, err, fakeErr)
			}
		}
		if (err == nil) != (fakeErr == nil) {
			t.Errorf("%s: kernel error %v, fake %v", s.name, err, fakeErr)
		}
		if d := cmp.Diff(childPicture(t, fake), childPicture(t, host)); d != "" {
			t.Errorf("%s (-fake +kernel):\n%s", s.name, d)
		}
	}
}

// line makes the pair e0, e1: a card and what is at the other end of its cable.
func line(t *testing.T) {
	t.Helper()
	ip(t, "link", "add", "e0", "type", "veth", "peer", "name", "e1")
	ip(t, "link", "set", "e0", "up")
	ip(t, "link", "set", "e1", "up")
}

func fakeLine() *kernel.Fake {
	fake := kernel.NewFake()
	fake.AddDevice(kernel.Link{Name: "e0", Kind: "veth", Up: true, Carrier: true})
	return fake
}

// TestChildConformance drives the real kernel and the fake with the same steps.
func TestChildConformance(t *testing.T) {
	kerneltest.Needs(t, "macvlan")
	host := kerneltest.Host(t)
	line(t)
	ns := kerneltest.Sandbox(t)
	fake := fakeLine()
	fake.AddSandbox(ns)
	mac := func(last byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, last} }
	one := kernel.Child{Kind: kernel.Macvlan, Name: "wp-1", Alias: "weft endpoint 1", Parent: "e0", Mode: "bridge", MTU: 1400, MAC: mac(1)}
	direct := kernel.ChildAttachment{Child: kernel.Child{Kind: kernel.Macvlan, Alias: "weft endpoint 2", Parent: "e0", Mode: "private", MAC: mac(2)},
		Sandbox: ns, Prefix: "weft", Addrs: prefixes("10.9.0.2/24", "fd00:9::2/64")}
	second := direct
	second.Alias, second.MAC, second.Addrs = "weft endpoint 3", mac(3), prefixes("10.9.0.3/24")
	passthru := kernel.Child{Kind: kernel.Macvlan, Name: "wp-9", Parent: "e0", Mode: "passthru"}
	do := func(f func(w childWorld) error) func(childWorld) (string, error) {
		return func(w childWorld) (string, error) { return "", f(w) }
	}
	conform(t, host, fake, []childStep{
		{"try", do(func(w childWorld) error { return w.TryChild(one) })},
		{"make", do(func(w childWorld) error { return w.AddChild(one) })},
		{"make again", do(func(w childWorld) error { return w.AddChild(one) })},
		{"without a parent", do(func(w childWorld) error {
			return w.AddChild(kernel.Child{Kind: kernel.Macvlan, Name: "wp-8", Parent: "none"})
		})},
		{"passthru is alone", do(func(w childWorld) error { return w.TryChild(passthru) })},
		{"attach", func(w childWorld) (string, error) { return w.AttachChild(direct) }},
		{"attach a second one", func(w childWorld) (string, error) { return w.AttachChild(second) }},
		{"attach by a name that is taken", func(w childWorld) (string, error) {
			a := second
			a.Name, a.MAC = "weft1", mac(4)
			return w.AttachChild(a)
		}},
		{"attach nowhere", func(w childWorld) (string, error) {
			a := direct
			a.Sandbox += "x"
			return w.AttachChild(a)
		}},
		{"down", do(func(w childWorld) error {
			return w.EnsureChild(kernel.ChildState{Sandbox: ns, Alias: direct.Alias, Down: true})
		})},
		{"up", do(func(w childWorld) error {
			return w.EnsureChild(kernel.ChildState{Sandbox: ns, Alias: direct.Alias, Addrs: direct.Addrs})
		})},
		{"up what is not there", do(func(w childWorld) error { return w.EnsureChild(kernel.ChildState{Sandbox: ns, Alias: "none"}) })},
		{"up nowhere", do(func(w childWorld) error { return w.EnsureChild(kernel.ChildState{Sandbox: ns + "x", Alias: "none"}) })},
		{"detach", do(func(w childWorld) error { return w.DetachChild(ns, second.Alias) })},
		{"detach again", do(func(w childWorld) error { return w.DetachChild(ns, second.Alias) })},
		{"detach nowhere", do(func(w childWorld) error { return w.DetachChild(ns+"x", second.Alias) })},
		{"the other one is on the card", func(w childWorld) (string, error) {
			index, err := w.ParentOf(ns, direct.Alias)
			links, _ := w.Links()
			i := slices.IndexFunc(links, func(l kernel.Link) bool { return l.Index == index })
			return links[max(i, 0)].Name, err
		}},
		{"retire it", do(func(w childWorld) error {
			finish, err := w.RetireChild(ns, direct.Alias)
			if err != nil {
				return err
			}
			_, err = w.ParentOf(ns, direct.Alias)
			return errors.Join(err, finish())
		})},
		{"retire what is gone", do(func(w childWorld) error {
			finish, err := w.RetireChild(ns, direct.Alias)
			if err != nil {
				return err
			}
			return finish()
		})},
		{"delete", do(func(w childWorld) error { return w.DeleteLink("wp-1") })},
		{"passthru", do(func(w childWorld) error { return w.AddChild(passthru) })},
		{"and another one", do(func(w childWorld) error { return w.TryChild(one) })},
		{"delete passthru", do(func(w childWorld) error { return w.DeleteLink("wp-9") })},
	})
}

// TestPortIsBusy: a port of a bridge bears no child.
func TestPortIsBusy(t *testing.T) {
	kerneltest.Needs(t, "macvlan")
	host := kerneltest.Host(t)
	line(t)
	ip(t, "link", "add", "br0", "type", "bridge")
	ip(t, "link", "set", "e0", "master", "br0")
	if err := host.TryChild(kernel.Child{Kind: kernel.Macvlan, Name: "wp-1", Parent: "e0"}); !errors.Is(err, kernel.ErrBusy) {
		t.Error(err)
	}
}

// TestPortOfVRF: a VRF leaves its ports their frames, and has none itself.
func TestPortOfVRF(t *testing.T) {
	kerneltest.Needs(t, "macvlan", "vrf")
	host := kerneltest.Host(t)
	line(t)
	ip(t, "link", "add", "vrf0", "type", "vrf", "table", "10")
	ip(t, "link", "set", "e0", "master", "vrf0")
	if err := host.TryChild(kernel.Child{Kind: kernel.Macvlan, Name: "wp-1", Parent: "e0"}); err != nil {
		t.Error(err)
	}
	if err := host.TryChild(kernel.Child{Kind: kernel.Macvlan, Name: "wp-1", Parent: "vrf0"}); err == nil {
		t.Error("a VRF takes frames")
	}
}

// TestVLANConformance is about sub-interfaces and what is on them.
func TestVLANConformance(t *testing.T) {
	kerneltest.Needs(t, "vlan", "dummy", "ipvlan", "macvlan")
	host := kerneltest.Host(t)
	line(t)
	ns := kerneltest.Sandbox(t)
	fake := fakeLine()
	fake.AddSandbox(ns)
	v := kernel.VLAN{Name: "e0.100", Alias: "weft", Parent: "e0", ID: 100}
	other := v
	other.Name = "vlan100"
	wrong := v
	wrong.ID = 101
	ipv := kernel.Child{Kind: kernel.IPvlan, Name: "wp-1", Alias: "weft endpoint 1", Parent: "e0.100", Mode: "l2", Flag: "private"}
	mac := kernel.Child{Kind: kernel.Macvlan, Name: "wp-2", Alias: "weft endpoint 2", Parent: "e0.100", Mode: "vepa"}
	l3 := kernel.ChildAttachment{Child: kernel.Child{Kind: kernel.IPvlan, Alias: "weft endpoint 3", Parent: "e0.100", Mode: "l2"},
		Sandbox: ns, Prefix: "weft", Addrs: prefixes("10.9.0.2/24"), Routes: prefixes("0.0.0.0/0"), Silent: true}
	made := func(b bool, err error) (string, error) { return fmt.Sprint(b), err }
	do := func(f func(w childWorld) error) func(childWorld) (string, error) {
		return func(w childWorld) (string, error) { return "", f(w) }
	}
	conform(t, host, fake, []childStep{
		{"sub-interface", func(w childWorld) (string, error) { return made(w.EnsureVLAN(v)) }},
		{"again", func(w childWorld) (string, error) { return made(w.EnsureVLAN(v)) }},
		{"the same tag under another name", func(w childWorld) (string, error) { return made(w.EnsureVLAN(other)) }},
		{"another tag under that name", func(w childWorld) (string, error) { return made(w.EnsureVLAN(wrong)) }},
		{"ipvlan on it", do(func(w childWorld) error { return w.AddChild(ipv) })},
		{"macvlan beside it", do(func(w childWorld) error { return w.TryChild(mac) })},
		{"attach ipvlan", func(w childWorld) (string, error) { return w.AttachChild(l3) }},
		{"dummy", func(w childWorld) (string, error) { return made(w.EnsureDummy("dm-1", "weft")) }},
		{"dummy again", func(w childWorld) (string, error) { return made(w.EnsureDummy("dm-1", "weft")) }},
		{"a sub-interface is no dummy", func(w childWorld) (string, error) { return made(w.EnsureDummy("e0.100", "weft")) }},
		{"delete the sub-interface", do(func(w childWorld) error { return w.DeleteLink("e0.100") })},
		{"what was on it is gone", do(func(w childWorld) error { return w.EnsureChild(kernel.ChildState{Sandbox: ns, Alias: l3.Alias}) })},
		{"delete the dummy", do(func(w childWorld) error { return w.DeleteLink("dm-1") })},
	})
}

// TestAttachChild looks at the sandbox's side, from the other end of the line.
func TestAttachChild(t *testing.T) {
	kerneltest.Needs(t, "macvlan")
	host := kerneltest.Host(t)
	line(t)
	ip(t, "addr", "add", "10.9.0.1/24", "dev", "e1")
	ip(t, "link", "set", "lo", "up")
	ns := kerneltest.Sandbox(t)
	a := kernel.ChildAttachment{
		Child:   kernel.Child{Kind: kernel.Macvlan, Alias: "weft endpoint 1", Parent: "e0", Mode: "bridge", MTU: 1300, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}},
		Sandbox: ns, Prefix: "weft", Addrs: prefixes("10.9.0.2/24"), Routes: prefixes("0.0.0.0/0"),
		Sysctls: []kernel.Sysctl{{Key: "net.ipv6.conf.IFNAME.disable_ipv6", Value: "1"}},
	}
	if name, err := host.AttachChild(a); err != nil || name != "weft0" {
		t.Fatalf("AttachChild: %q, %v", name, err)
	}
	out := inSandbox(t, ns, "-d", "addr", "show", "weft0") + inSandbox(t, ns, "route")
	for _, want := range []string{"mtu 1300", "02:00:00:00:00:01", "inet 10.9.0.2/24", "macvlan mode bridge", "default dev weft0", "weft endpoint 1"} {
		if !strings.Contains(out, want) {
			t.Errorf("the sandbox lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "inet6") {
		t.Errorf("IPv6 is on:\n%s", out)
	}
	answers := func() bool {
		ok, err := host.Answers(netip.MustParseAddr("10.9.0.2"), 300*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	for end := time.Now().Add(10 * time.Second); !answers(); {
		if time.Now().After(end) {
			t.Fatal("it does not answer")
		}
	}
	state := kernel.ChildState{Sandbox: ns, Alias: a.Alias, Addrs: a.Addrs, Routes: a.Routes, Down: true}
	if err := host.EnsureChild(state); err != nil {
		t.Fatal(err)
	}
	if answers() {
		t.Error("it answers while it is down")
	}
	state.Down = false
	if err := host.EnsureChild(state); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); !answers(); {
		if time.Now().After(end) {
			t.Fatal("it does not answer when it is up again")
		}
	}
	if out := inSandbox(t, ns, "route"); !strings.Contains(out, "default dev weft0") {
		t.Errorf("its way out did not come back:\n%s", out)
	}
}

// TestChildErrors: what the kernel says by a number alone is said in words.
func TestChildErrors(t *testing.T) {
	kerneltest.Needs(t, "macvlan")
	host := kerneltest.Host(t)
	line(t)
	a := kernel.ChildAttachment{
		Child:   kernel.Child{Kind: kernel.Macvlan, Alias: "weft endpoint 1", Parent: "e0", Mode: "bridge", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}},
		Sandbox: kerneltest.Sandbox(t), Prefix: "weft", Addrs: prefixes("10.9.0.2/24"),
	}
	if _, err := host.AttachChild(a); err != nil {
		t.Fatal(err)
	}
	fails := func(words string) {
		t.Helper()
		if _, err := host.AttachChild(a); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("the error lacks %q: %v", words, err)
		}
	}
	a.Alias = "weft endpoint 2"
	fails("has the MAC address 02:00:00:00:00:01")
	a.MTU = 9000
	fails("MTU of 9000 is more than the parent's 1500")
}

// TestCarrier: a cable that is pulled shows.
func TestCarrier(t *testing.T) {
	host := kerneltest.Host(t)
	line(t)
	for _, want := range []bool{true, false} {
		if !want {
			ip(t, "link", "set", "e1", "down")
		}
		l, err := host.LinkByName("e0")
		if err != nil || l.Carrier != want || !l.Up {
			t.Errorf("carrier should be %t: %+v, %v", want, l, err)
		}
	}
	if wireless, err := host.Wireless("e0"); wireless || err != nil {
		t.Errorf("e0 is wireless: %t, %v", wireless, err)
	}
}

package driver

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/kernel"
)

func TestMAC(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	if MAC("x", a).String() == MAC("x", b).String() || MAC("x", a).String() == MAC("y", a).String() {
		t.Error("MAC addresses collide")
	}
	for _, ip := range []netip.Addr{a, netip.MustParseAddr("fd00::2"), {}} {
		if m := MAC("x", ip); len(m) != 6 || m[0] != 2 {
			t.Errorf("%s is not a locally administered unicast address", m)
		}
	}
	if m := MAC("x", a); !slices.Equal(m[2:], []byte{10, 0, 0, 2}) {
		t.Errorf("%s does not end in the address", m)
	}
}

func TestUplinks(t *testing.T) {
	links := []kernel.Link{
		{Index: 1, Name: "lo", Loopback: true}, {Index: 2, Name: "eth0"}, {Index: 3, Name: "docker0", Kind: "bridge"},
		{Index: 4, Name: "br-0123456789ab", Kind: "bridge"}, {Index: 5, Name: "br0", Kind: "bridge"}, {Index: 6, Name: "eth1", Master: 5},
		{Index: 7, Name: "wf-0123456789ab", Kind: "bridge", Group: kernel.Group}, {Index: 8, Name: "wg0", Kind: "wireguard"},
		{Index: 9, Name: "virbr0", Kind: "bridge"}, {Index: 10, Name: "eth2"}, {Index: 11, Name: "docker_gwbridge", Kind: "bridge"},
	}
	a := Actual{Links: map[string]kernel.Link{}, Index: map[int]kernel.Link{}, Addresses: map[string][]kernel.Address{}}
	for _, l := range links {
		a.Links[l.Name], a.Index[l.Index] = l, l
	}
	for name, p := range map[string]string{
		"lo": "127.0.0.1/8", "docker0": "172.17.0.1/16", "br-0123456789ab": "172.18.0.1/16", "wg0": "10.1.0.1/24",
		"virbr0": "192.168.122.1/24", "eth2": "fe80::1/64", "wf-0123456789ab": "10.9.0.1/24",
	} {
		a.Addresses[name] = []kernel.Address{{Prefix: netip.MustParsePrefix(p)}}
	}
	gateway := netip.MustParseAddr("10.0.0.1")
	routes := []kernel.Route{{Gateway: gateway, Link: 2}, {Gateway: gateway, Link: 5}, {Gateway: gateway, Link: 7}, {Link: 9}}
	want := []string{"br0", "eth0", "wg0"}
	if got := Uplinks(a, routes); !slices.Equal(got, want) {
		t.Errorf("uplinks %v instead of %v", got, want)
	}
}

func TestLeakBook(t *testing.T) {
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(d time.Duration) time.Time { return start.Add(d) }
	b := leakBook{missing: map[string]time.Time{}}
	old := at(-time.Hour)
	if b.note("a", false, old, at(0)) {
		t.Error("collected after one answer")
	}
	if b.note("a", false, old, at(59*time.Second)) {
		t.Error("collected after 59 s")
	}
	if b.note("a", true, old, at(61*time.Second)) || b.note("a", false, old, at(62*time.Second)) {
		t.Error("an answer that holds it does not start anew")
	}
	if !b.note("a", false, old, at(122*time.Second)) {
		t.Error("not collected after two answers a minute apart")
	}
	young := at(0)
	if b.note("b", false, young, at(10*time.Second)) || b.note("b", false, young, at(4*time.Minute)) {
		t.Error("collected before it was five minutes old")
	}
	if !b.note("b", false, young, at(5*time.Minute)) {
		t.Error("not collected at five minutes")
	}
}

func TestKeyedLock(t *testing.T) {
	var k keyed
	counter := 0
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			defer k.Lock("a")()
			counter++
		})
	}
	wg.Wait()
	if counter != 50 {
		t.Errorf("counter %d", counter)
	}
	if len(k.locks) != 0 {
		t.Errorf("%d locks stay behind", len(k.locks))
	}
	first, second := k.RLock("a"), k.RLock("a") // readers do not wait for each other
	first()
	second()
}

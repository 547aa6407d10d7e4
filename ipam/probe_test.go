package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weft-net/weft/internal/store"
	"github.com/weft-net/weft/ipam"
)

// wire is the line of a device: the machines on it, and what they were asked.
type wire struct {
	mu       sync.Mutex
	machines map[netip.Addr]ipam.Machine
	asked    map[netip.Addr]int
	marks    map[string]bool
	err      error
	gate     *gate         // who asks waits for it
	slow     time.Duration // what a probe takes
	full     bool          // a machine has every address
	device   string
}

func newWire() *wire {
	return &wire{machines: map[netip.Addr]ipam.Machine{}, asked: map[netip.Addr]int{}, marks: map[string]bool{}, device: "e0"}
}

// name is that of the device.
func (w *wire) name() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.device
}

// rename makes it the line of another one.
func (w *wire) rename(device string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.device = device
}

// Probe answers for the machines.
func (w *wire) Probe(ctx context.Context, device, mark string, addrs []netip.Addr) (map[netip.Addr]ipam.Machine, error) {
	w.mu.Lock()
	g, slow := w.gate, w.slow
	w.mu.Unlock()
	if g != nil {
		g.pass()
	}
	select {
	case <-time.After(slow):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if device != w.device {
		return nil, errors.New("no such device")
	}
	out := map[netip.Addr]ipam.Machine{}
	for _, a := range addrs {
		if w.err == nil {
			w.asked[a]++
		}
		w.marks[mark] = true
		if m, ok := w.machines[a]; ok {
			out[a] = m
		} else if w.full {
			out[a] = ipam.Machine{MAC: net.HardwareAddr{2, 0, 0, 0xff, 0, 1}}
		}
	}
	return out, w.err
}

// set makes machines have these addresses and no others.
func (w *wire) set(addrs ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.machines)
	for _, a := range addrs {
		addr := netip.MustParseAddr(a)
		raw := addr.As16()
		w.machines[addr] = ipam.Machine{MAC: net.HardwareAddr{2, 0, 0, 0xff, raw[14], raw[15]}}
	}
}

// own gives this host an address on the line.
func (w *wire) own(addr, device string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.machines[netip.MustParseAddr(addr)] = ipam.Machine{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Own: device}
}

func (w *wire) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
}

// block makes everybody wait who asks from now on.
func (w *wire) block(tb testing.TB) *gate {
	g := newGate(tb)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gate = g
	return g
}

func (w *wire) times(addr string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[netip.MustParseAddr(addr)]
}

// total is how many addresses were asked for, each time anew.
func (w *wire) total() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, times := range w.asked {
		n += times
	}
	return n
}

// fill lets a machine have every address, or not.
func (w *wire) fill(full bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.full = full
}

// clock is a clock that a test sets.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) read() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// lined is a host that runs, with a network on a line.
type lined struct {
	*host
	tb    testing.TB
	wire  *wire
	clock *clock
	pool  string
	// follow, if there is one, is called before an address of a network is chosen.
	follow func(network string)
}

const lineNetwork = "1111111111111111111111111111111111111111111111111111111111111111"

// newLined has a network on a subnet, whose gateway is its first address.
func newLined(t *testing.T, subnet string, machines ...string) *lined {
	t.Helper()
	l := &lined{tb: t, wire: newWire(), clock: &clock{now: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)}}
	l.wire.set(machines...)
	l.host = newHost(t, func(c *ipam.Config) {
		c.Now = l.clock.read
		c.Prober, c.Line = l.wire, func(network string) string {
			if network == lineNetwork {
				return l.wire.name()
			}
			return ""
		}
		c.Follow = func(_ context.Context, network string) {
			if l.follow != nil {
				l.follow(network)
			}
		}
	})
	run(t, l.IPAM)
	l.pool = l.subnet(t, subnet)
	l.take(t, ipam.AddressRequest{PoolID: l.pool, Gateway: true})
	if err := l.Bind(t.Context(), lineNetwork, prefix(subnet)); err != nil {
		t.Fatal(err)
	}
	return l
}

// run runs a host until the test ends.
func run(t *testing.T, m *ipam.IPAM) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// probed waits until the wire was asked for an address n times.
func (l *lined) probed(addr string, n int) {
	l.tb.Helper()
	eventually(l.tb, addr+" is probed", func() bool { return l.wire.times(addr) >= n })
}

// any takes any address.
func (l *lined) any() (netip.Addr, error) {
	a, err := l.RequestAddress(context.Background(), ipam.AddressRequest{PoolID: l.pool})
	return a.Addr(), err
}

func (l *lined) foreigners() map[string]string {
	out := map[string]string{}
	for _, f := range l.View()[0].Foreigners {
		out[f.Address.String()] = f.MAC.String()
	}
	return out
}

// TestProbedAhead: what is given next was probed before, and nobody waits for a probe while
// there is such an address.
func TestProbedAhead(t *testing.T) {
	l := newLined(t, "10.9.0.0/24", "10.9.0.2", "10.9.0.4")
	l.probed("10.9.0.11", 1) // the eighth that is nobody's
	eventually(t, "both machines are known", func() bool { return len(l.foreigners()) == 2 })
	g := l.wire.block(t)
	for _, want := range []string{"10.9.0.3", "10.9.0.5", "10.9.0.6", "10.9.0.7", "10.9.0.8", "10.9.0.9", "10.9.0.10", "10.9.0.11"} {
		l.want(t, ipam.AddressRequest{PoolID: l.pool}, want)
	}
	if l.wire.times("10.9.0.12") != 0 {
		t.Error("a probe got past the gate")
	}
	// One that a container had until now is not for who waits for any: it may come back, within
	// a minute of its probe without another one.
	l.release(t, l.pool, "10.9.0.6")
	got := make(chan netip.Addr, 1)
	go func() {
		a, err := l.any()
		if err != nil {
			t.Error(err)
		}
		got <- a
	}()
	g.await(t, "the next one is probed")
	stays(t, "it waits for the probe", 200*time.Millisecond, func() bool { return len(got) == 0 })
	l.want(t, ipam.AddressRequest{PoolID: l.pool, Address: netip.MustParseAddr("10.9.0.6")}, "10.9.0.6")
	g.open()
	if a := <-got; a.String() != "10.9.0.12" {
		t.Errorf("then %s was given", a)
	}
	if got := l.foreigners()["10.9.0.4"]; got != "02:00:00:ff:00:04" {
		t.Errorf("10.9.0.4 is shown as that of %q", got)
	}
	if v := l.View()[0]; v.Free != 254-10-2 || v.Used != 10 {
		t.Errorf("%d free and %d used", v.Free, v.Used)
	}
}

// TestProbeAges: a probe counts for a minute, and is repeated before that.
func TestProbeAges(t *testing.T) {
	l := newLined(t, "fd09::/64", "fd09::2")
	l.probed("fd09::a", 1)
	l.clock.add(44 * time.Second)
	l.want(t, ipam.AddressRequest{PoolID: l.pool}, "fd09::3")
	l.probed("fd09::b", 1)
	if n := l.wire.times("fd09::4"); n != 1 {
		t.Errorf("after 44 s it was probed %d times", n)
	}
	l.clock.add(2 * time.Second)
	l.want(t, ipam.AddressRequest{PoolID: l.pool}, "fd09::4")
	l.probed("fd09::5", 2)
	// A machine that comes now is found by the next probe, and before the address is given.
	l.wire.set("fd09::5", "fd09::6")
	l.clock.add(61 * time.Second)
	l.want(t, ipam.AddressRequest{PoolID: l.pool}, "fd09::7")
	// Nobody asks for long: only the next two are kept.
	l.probed("fd09::8", 3)
	was := l.wire.times("fd09::a")
	l.clock.add(time.Hour)
	l.take(t, ipam.AddressRequest{PoolID: l.pool, Address: netip.MustParseAddr("fd09::77")}) // wakes the probing
	l.probed("fd09::9", 4)
	if l.wire.times("fd09::a") != was {
		t.Error("all were probed again though nobody asks for addresses")
	}
}

// TestExplicitProbe: an address that is asked for by itself is probed first.
func TestExplicitProbe(t *testing.T) {
	l := newLined(t, "10.9.0.0/24", "10.9.0.77")
	ask := func(addr string) error {
		_, err := l.RequestAddress(t.Context(), ipam.AddressRequest{PoolID: l.pool, Address: netip.MustParseAddr(addr)})
		return err
	}
	wantRefusal(t, ask("10.9.0.77"), ipam.ErrInUse, "10.9.0.77 of 10.9.0.0/24", "not weft's", "02:00:00:ff:00:4d", "e0")
	if err := ask("10.9.0.78"); err != nil || l.wire.times("10.9.0.78") != 1 {
		t.Errorf("a free one, probed %d times: %v", l.wire.times("10.9.0.78"), err)
	}
	l.wire.set()
	l.clock.add(time.Second)
	if err := ask("10.9.0.77"); err != nil {
		t.Errorf("the machine is gone: %v", err)
	}
	// That a container had it until now proves nothing: a machine may have come meanwhile.
	l.wire.set("10.9.0.78")
	l.clock.add(10 * time.Minute)
	l.release(t, l.pool, "10.9.0.78")
	wantRefusal(t, ask("10.9.0.78"), ipam.ErrInUse, "10.9.0.78", "not weft's")
	// What the host has itself is no other machine's.
	l.wire.own("10.9.0.79", "e0")
	err := ask("10.9.0.79")
	wantRefusal(t, err, ipam.ErrInUse, "this host itself has 10.9.0.79 of 10.9.0.0/24, on e0")
	if refused, ok := errors.AsType[*ipam.Error](err); !ok || !strings.Contains(refused.Hint(), "take it off e0") {
		t.Errorf("the advice: %v", refused)
	}
	for _, f := range l.View()[0].Foreigners {
		if (f.Own == "e0") != (f.Address.String() == "10.9.0.79") {
			t.Errorf("%+v", f)
		}
	}
	// Gateways and aux addresses are asked of nobody.
	if l.wire.times("10.9.0.1") != 0 {
		t.Error("the gateway was probed")
	}
}

// TestNamedProbe: a name's last address is worth the wait.
func TestNamedProbe(t *testing.T) {
	l := newLined(t, "10.9.0.0/24")
	named := ipam.AddressRequest{PoolID: l.pool, Name: "db"}
	l.want(t, named, "10.9.0.2")
	l.release(t, l.pool, "10.9.0.2")
	l.clock.add(10 * time.Minute)
	was := l.wire.times("10.9.0.2")
	l.want(t, named, "10.9.0.2")
	if l.wire.times("10.9.0.2") <= was {
		t.Error("it was not probed again")
	}
	l.release(t, l.pool, "10.9.0.2")
	l.clock.add(10 * time.Minute)
	l.wire.set("10.9.0.2")
	if got := l.take(t, named); got.String() != "10.9.0.3" {
		t.Errorf("another machine has its address, and it got %s", got)
	}
}

// TestBlindProbe: a line that is down keeps no container from its start, and what was given
// meanwhile is probed when it is up again.
func TestBlindProbe(t *testing.T) {
	l := newLined(t, "10.9.0.0/24")
	l.probed("10.9.0.9", 1)
	l.clock.add(time.Hour)
	l.wire.fail(ipam.ErrNoLine)
	begin := time.Now()
	l.want(t, ipam.AddressRequest{PoolID: l.pool}, "10.9.0.2")
	if err := func() error {
		_, err := l.RequestAddress(t.Context(), ipam.AddressRequest{PoolID: l.pool, Address: netip.MustParseAddr("10.9.0.50")})
		return err
	}(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("it took %v", took)
	}
	l.wire.fail(nil)
	l.wire.set("10.9.0.2", "10.9.0.3")
	l.want(t, ipam.AddressRequest{PoolID: l.pool}, "10.9.0.4") // wakes the probing
	eventually(t, "the conflict is told", func() bool {
		for _, f := range l.View()[0].Foreigners {
			if f.Held != (f.Address.String() == "10.9.0.2") {
				t.Errorf("%+v", f)
			}
		}
		return len(l.foreigners()) == 2
	})
	l.release(t, l.pool, "10.9.0.2")
	if got := l.foreigners()["10.9.0.2"]; got == "" {
		t.Error("the machine is forgotten with the container")
	}
}

// TestLineDownAgain: what was silent before the line went down proves nothing when it is up
// again.
func TestLineDownAgain(t *testing.T) {
	l := newLined(t, "10.9.0.0/24")
	l.want(t, ipam.AddressRequest{PoolID: l.pool}, "10.9.0.2")
	l.probed("10.9.0.9", 1)
	explicit := func(addr string) {
		t.Helper()
		l.want(t, ipam.AddressRequest{PoolID: l.pool, Address: netip.MustParseAddr(addr)}, addr)
	}
	l.clock.add(2 * time.Minute)
	explicit("10.9.0.199") // wakes the probing
	l.probed("10.9.0.4", 2)
	l.wire.fail(ipam.ErrNoLine)
	explicit("10.9.0.200")
	l.wire.set("10.9.0.3")
	l.wire.fail(nil)
	explicit("10.9.0.201") // wakes the probing
	l.probed("10.9.0.200", 1)
	l.want(t, ipam.AddressRequest{PoolID: l.pool}, "10.9.0.4")
}

// TestAnotherLine: a network that went to another device asks there what it asked before,
// for its containers' addresses as well, and remembers no machine of the line where it was.
func TestAnotherLine(t *testing.T) {
	l := newLined(t, "10.9.0.0/24", "10.9.0.3")
	l.want(t, ipam.AddressRequest{PoolID: l.pool}, "10.9.0.2")
	l.probed("10.9.0.12", 1)
	eventually(t, "the machine is known", func() bool { return l.foreigners()["10.9.0.3"] != "" })
	l.wire.set("10.9.0.2", "10.9.0.4")
	l.wire.rename("f0")
	l.want(t, ipam.AddressRequest{PoolID: l.pool, Address: netip.MustParseAddr("10.9.0.3")}, "10.9.0.3")
	eventually(t, "the machines of the other line are known", func() bool {
		f := l.foreigners()
		return f["10.9.0.2"] != "" && f["10.9.0.4"] != "" && len(f) == 2
	})
	l.want(t, ipam.AddressRequest{PoolID: l.pool}, "10.9.0.5")
}

// TestAskedWhereItGoes: a network that goes to another device because of a request is asked
// for there, and the host asks there for what it gave back when it went.
func TestAskedWhereItGoes(t *testing.T) {
	l := newLined(t, "10.9.0.0/24")
	own := func(want string) {
		t.Helper()
		got, err := l.TakeHostAddresses(t.Context(), lineNetwork)
		if err != nil || len(got) != 1 || got[0].String() != want {
			t.Errorf("the host has %v, %v, want %s", got, err, want)
		}
	}
	own("10.9.0.2/24")
	l.want(t, ipam.AddressRequest{PoolID: l.pool, Name: "web"}, "10.9.0.3")
	l.release(t, l.pool, "10.9.0.3")
	l.follow = func(network string) {
		if network == lineNetwork && l.wire.name() == "e0" {
			l.wire.set("10.9.0.2", "10.9.0.3")
			l.wire.rename("f0")
			if err := l.ReleaseHostAddresses(t.Context(), network); err != nil {
				t.Error(err)
			}
		}
	}
	l.want(t, ipam.AddressRequest{PoolID: l.pool, Name: "web"}, "10.9.0.4")
	own("10.9.0.5/24")
}

// TestAskedOnceMore: what was given is asked for once more, a minute later and when weft
// starts; a machine that has come is told.
func TestAskedOnceMore(t *testing.T) {
	l := newLined(t, "10.9.0.0/24")
	l.want(t, ipam.AddressRequest{PoolID: l.pool}, "10.9.0.2")
	l.clock.add(59 * time.Second)
	explicit := ipam.AddressRequest{PoolID: l.pool, Address: netip.MustParseAddr("10.9.0.200")}
	l.want(t, explicit, "10.9.0.200") // wakes the probing
	l.wire.set("10.9.0.2")
	if n := l.wire.times("10.9.0.2"); n != 1 {
		t.Errorf("within the minute it was probed %d times", n)
	}
	l.clock.add(2 * time.Second)
	explicit.Address = netip.MustParseAddr("10.9.0.201")
	l.want(t, explicit, "10.9.0.201")
	l.want(t, ipam.AddressRequest{PoolID: l.pool}, "10.9.0.3")
	eventually(t, "the conflict is told", func() bool { return l.foreigners()["10.9.0.2"] != "" })
	if n := l.wire.times("10.9.0.2"); n != 2 {
		t.Errorf("it was probed %d times", n)
	}
	// Once is enough.
	for i, wake := range []string{"10.9.0.202", "10.9.0.203"} {
		l.clock.add(2 * time.Minute)
		explicit.Address = netip.MustParseAddr(wake)
		l.want(t, explicit, wake)
		l.probed([]string{"10.9.0.201", "10.9.0.202"}[i], 2)
	}
	if n := l.wire.times("10.9.0.201"); n != 2 {
		t.Errorf("it was probed %d times", n)
	}
	// And what a weft that starts finds in its journal.
	l.wire.set("10.9.0.203")
	l.crash(t)
	run(t, l.IPAM)
	eventually(t, "the conflict is told again", func() bool { return l.foreigners()["10.9.0.203"] != "" })
}

// TestHostHas: what the host takes from a container is told at once, and that it gave it back.
func TestHostHas(t *testing.T) {
	l := newLined(t, "10.9.0.0/24")
	elsewhere := netip.MustParseAddr("192.0.2.1")
	l.HostHas([]netip.Addr{elsewhere})
	l.want(t, ipam.AddressRequest{PoolID: l.pool}, "10.9.0.2")
	own := func() string {
		for _, f := range l.View()[0].Foreigners {
			if f.Address.String() == "10.9.0.2" && f.Held {
				return f.Own
			}
		}
		return ""
	}
	l.wire.own("10.9.0.2", "e0")
	l.HostHas([]netip.Addr{elsewhere, netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("10.9.0.200")})
	eventually(t, "it is told", func() bool { return own() == "e0" })
	l.wire.set()
	l.HostHas([]netip.Addr{elsewhere})
	eventually(t, "it is over", func() bool { return own() == "" })
	if n := l.wire.times("10.9.0.200"); n != 0 {
		t.Errorf("an address that nobody has was probed %d times", n)
	}
	// One that was proven to be nobody's is asked for before it is given.
	l.probed("10.9.0.3", 1)
	l.wire.own("10.9.0.3", "e0")
	l.HostHas([]netip.Addr{elsewhere, netip.MustParseAddr("10.9.0.3")})
	l.want(t, ipam.AddressRequest{PoolID: l.pool}, "10.9.0.4")
	l.wire.set()
	l.HostHas([]netip.Addr{elsewhere})
	// What is asked for in a minute is asked for then all the same.
	was := l.wire.times("10.9.0.2")
	l.HostHas([]netip.Addr{elsewhere}) // no news
	l.clock.add(61 * time.Second)
	l.want(t, ipam.AddressRequest{PoolID: l.pool, Address: netip.MustParseAddr("10.9.0.201")}, "10.9.0.201") // wakes the probing
	l.probed("10.9.0.2", was+1)
	if n := l.wire.times("10.9.0.2"); n != was+1 {
		t.Errorf("it was probed %d times, and %d before", n, was)
	}
	// A line that is down hears of it when it is up.
	l.wire.fail(ipam.ErrNoLine)
	l.HostHas([]netip.Addr{netip.MustParseAddr("10.9.0.2")})
	l.want(t, ipam.AddressRequest{PoolID: l.pool, Address: netip.MustParseAddr("10.9.0.202")}, "10.9.0.202") // after a round that failed
	l.wire.own("10.9.0.2", "e0")
	l.wire.fail(nil)
	l.want(t, ipam.AddressRequest{PoolID: l.pool, Address: netip.MustParseAddr("10.9.0.203")}, "10.9.0.203") // wakes the probing
	eventually(t, "it is told again", func() bool { return own() == "e0" })
}

// TestLineIsAnother: that nobody had an address says nothing after the line was down, or when
// the name is another device's, even if nobody was asked meanwhile.
func TestLineIsAnother(t *testing.T) {
	l := newLined(t, "10.9.0.0/24")
	for i, lines := range [][]map[string]int{{{}, {"e0": 7}}, {{"e0": 8}}} {
		l.LinesUp(map[string]int{"e0": 7})
		next := 2 + 3*i
		l.want(t, ipam.AddressRequest{PoolID: l.pool}, fmt.Sprintf("10.9.0.%d", next))
		machine := fmt.Sprintf("10.9.0.%d", next+1)
		eventually(t, machine+" is proven", func() bool { return l.Proven(netip.MustParseAddr(machine)) })
		l.wire.set(machine)
		for _, up := range lines {
			l.LinesUp(up)
		}
		l.want(t, ipam.AddressRequest{PoolID: l.pool}, fmt.Sprintf("10.9.0.%d", next+2))
		l.wire.set()
	}
}

// TestFailedRound: a round that failed while the line is up says who was heard, and of
// nobody that he is not there.
func TestFailedRound(t *testing.T) {
	l := newLined(t, "10.9.0.0/24", "10.9.0.50")
	ask := func(addr string) error {
		_, err := l.RequestAddress(context.Background(), ipam.AddressRequest{PoolID: l.pool, Address: netip.MustParseAddr(addr)})
		return err
	}
	l.wire.fail(errors.New("no buffer space"))
	wantRefusal(t, ask("10.9.0.50"), ipam.ErrInUse, "02:00:00:ff:00:32")
	wantRefusal(t, ask("10.9.0.51"), ipam.ErrProbe, "10.9.0.51 of 10.9.0.0/24", "nobody could be asked on e0", "no buffer space")
	got := make(chan error, 1)
	go func() { got <- ask("10.9.0.52") }()
	stays(t, "it waits for a probe", 200*time.Millisecond, func() bool { return len(got) == 0 })
	l.wire.fail(nil)
	if err := <-got; err != nil || l.wire.times("10.9.0.52") == 0 {
		t.Errorf("probed %d times: %v", l.wire.times("10.9.0.52"), err)
	}
}

// TestBusyHost: a round that takes long, on a host that is too busy for it, is waited for.
func TestBusyHost(t *testing.T) {
	l := newLined(t, "10.9.0.0/24")
	l.wire.mu.Lock()
	l.wire.slow = 3 * time.Second
	l.wire.mu.Unlock()
	l.clock.add(time.Hour)
	if _, err := l.any(); err != nil {
		t.Error(err)
	}
}

// TestCrowdAmongMachines: a crowd finds the few addresses that machines left, as long as
// there is time.
func TestCrowdAmongMachines(t *testing.T) {
	var machines []string
	for i := 2; i < 400; i++ {
		machines = append(machines, fmt.Sprintf("10.8.%d.%d", i/250, i%250))
	}
	l := newLined(t, "10.8.0.0/16", machines...)
	l.wire.mu.Lock()
	l.wire.slow = 600 * time.Millisecond
	l.wire.mu.Unlock()
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := l.any(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// TestNoWayAmongMachines: machines without end end a request in time, which says so.
func TestNoWayAmongMachines(t *testing.T) {
	l := newLined(t, "10.8.0.0/16")
	l.wire.mu.Lock()
	l.wire.slow, l.wire.full = 300*time.Millisecond, true
	l.wire.mu.Unlock()
	l.clock.add(time.Hour)
	begin := time.Now()
	_, err := l.any()
	wantRefusal(t, err, ipam.ErrProbe, "an address of 10.8.0.0/16", "addresses were asked for on e0 in ", "machines have")
	if took := time.Since(begin); took > 8*time.Second { // it gives up after 4.5 s, and this machine may be busy
		t.Errorf("it took %v", took)
	}
}

// idle lets time pass in which nobody asks for anything. The test is in a synctest bubble.
func (l *lined) idle(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second) {
		l.clock.add(time.Second)
	}
	synctest.Wait()
}

// TestQuietAmongMachines: where a machine answers for every address, a host of which nobody
// wants one soon stops looking for more, remembers no more than so many, and asks rarely. A
// request ends in time, and all is well when the machine is gone.
func TestQuietAmongMachines(t *testing.T) {
	for _, subnet := range []string{"fd09::/64", "10.8.0.0/16"} {
		synctest.Test(t, func(t *testing.T) {
			l := newLined(t, subnet)
			l.wire.fill(true)
			quiet := func(d time.Duration, probes, machines int) {
				t.Helper()
				was := l.wire.total()
				l.idle(d)
				if n := l.wire.total() - was; n > probes {
					t.Fatalf("%d addresses were asked for in %v", n, d)
				}
				if n := len(l.foreigners()); n > machines {
					t.Fatalf("%d machines are remembered", n)
				}
			}
			quiet(time.Minute, 140, 140)
			quiet(time.Hour, 7*140, 140)
			l.wire.mu.Lock()
			l.wire.slow = 500 * time.Millisecond
			l.wire.mu.Unlock()
			for range 4 {
				begin := time.Now()
				_, err := l.any()
				wantRefusal(t, err, ipam.ErrProbe, "an address of "+subnet, "addresses were asked for on e0 in ", "machines have")
				if took := time.Since(begin); took > 5*time.Second {
					t.Errorf("it took %v", took)
				}
				quiet(time.Minute, 300, 1024)
			}
			quiet(time.Hour, 7*1024, 1024)
			// What is asked for by itself is refused for what it is, and not remembered for long.
			a := netip.MustParsePrefix(subnet).Addr().Next()
			for range 1100 {
				a = a.Next()
			}
			for range 20 {
				_, err := l.RequestAddress(t.Context(), ipam.AddressRequest{PoolID: l.pool, Address: a})
				wantRefusal(t, err, ipam.ErrInUse, a.String(), "not weft's")
				a = a.Next()
			}
			quiet(11*time.Minute, 2*1044, 1024)

			l.wire.fill(false)
			if _, err := l.any(); err != nil {
				t.Errorf("the machine is gone: %v", err)
			}
			l.wire.fill(true)
			l.idle(time.Minute)
			l.wire.fill(false)
			l.idle(11 * time.Minute)
			g := l.wire.block(t)
			if _, err := l.any(); err != nil {
				t.Errorf("the machine is gone for long, and nothing was found ahead of need: %v", err)
			}
			g.open()
		})
	}
}

// TestAnotherLineAmongMachines: a line that may be another one is looked at anew.
func TestAnotherLineAmongMachines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLined(t, "10.8.0.0/16")
		l.wire.fill(true)
		l.LinesUp(map[string]int{"e0": 7})
		l.idle(time.Minute)
		l.wire.fill(false)
		l.LinesUp(map[string]int{"e0": 8})
		l.idle(10 * time.Second)
		g := l.wire.block(t)
		if _, err := l.any(); err != nil {
			t.Errorf("nothing was found ahead of need: %v", err)
		}
		g.open()
	})
}

// TestRowOfMachines: behind many machines in a row there are addresses ahead of need, and
// behind very many as soon as one was needed.
func TestRowOfMachines(t *testing.T) {
	for _, row := range []int{60, 120, 300, 1000} {
		synctest.Test(t, func(t *testing.T) {
			a := netip.MustParseAddr("10.8.0.1")
			var machines []string
			for range row {
				a = a.Next()
				machines = append(machines, a.String())
			}
			l := newLined(t, "10.8.0.0/16", machines...)
			l.wire.mu.Lock()
			l.wire.slow = 500 * time.Millisecond
			l.wire.mu.Unlock()
			l.idle(30 * time.Second)
			next := func() {
				t.Helper()
				a = a.Next()
				l.want(t, ipam.AddressRequest{PoolID: l.pool}, a.String())
			}
			if row > 128 {
				next()
			}
			for range 3 {
				l.idle(time.Hour)
				g := l.wire.block(t)
				next()
				next()
				g.open()
			}
			if n := len(l.foreigners()); n != row {
				t.Errorf("%d machines are known", n)
			}
		})
	}
}

// TestWantedProbe: nobody who waits for any address gets the one that another request waits
// for.
func TestWantedProbe(t *testing.T) {
	l := newLined(t, "10.9.0.0/28")
	l.clock.add(time.Hour)
	g := l.wire.block(t)
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := l.RequestAddress(context.Background(), ipam.AddressRequest{PoolID: l.pool, Address: netip.MustParseAddr("10.9.0.3")}); err != nil {
			t.Error(err)
		}
	})
	g.await(t, "it is probed")
	for range 12 {
		all.Go(func() {
			if a, err := l.any(); err != nil || a.String() == "10.9.0.3" {
				t.Errorf("%s was given: %v", a, err)
			}
		})
	}
	stays(t, "all wait", 100*time.Millisecond, func() bool { return l.View()[0].Used == 1 })
	g.open()
	all.Wait()
}

// TestForeignersGo: who does not answer any more is asked again rarely, and before a pool is
// called exhausted.
func TestForeignersGo(t *testing.T) {
	l := newLined(t, "10.9.0.0/29", "10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5", "10.9.0.6")
	eventually(t, "all are known", func() bool { return len(l.foreigners()) == 5 })
	_, err := l.any()
	wantRefusal(t, err, ipam.ErrExhausted, "machines that are not weft's have 5")
	l.wire.set("10.9.0.2", "10.9.0.3", "10.9.0.5", "10.9.0.6")
	l.clock.add(time.Second)
	l.want(t, ipam.AddressRequest{PoolID: l.pool}, "10.9.0.4")
	l.wire.set()
	l.clock.add(11 * time.Minute)
	l.want(t, ipam.AddressRequest{PoolID: l.pool, Address: netip.MustParseAddr("10.9.0.6")}, "10.9.0.6") // wakes the probing
	eventually(t, "all are gone", func() bool { return len(l.foreigners()) == 0 })
}

// TestCrowdProbe: many at once get what was probed before.
func TestCrowdProbe(t *testing.T) {
	l := newLined(t, "10.9.0.0/24", "10.9.0.5", "10.9.0.15", "10.9.0.16", "10.9.0.17", "10.9.0.40")
	got := make([]netip.Addr, 100)
	var all sync.WaitGroup
	for i := range got {
		all.Go(func() {
			var err error
			if got[i], err = l.any(); err != nil {
				t.Error(err)
			} else if l.wire.times(got[i].String()) == 0 {
				t.Errorf("%s was not probed", got[i])
			}
		})
	}
	all.Wait()
	slices.SortFunc(got, netip.Addr.Compare)
	if len(slices.Compact(got)) != 100 {
		t.Error("an address was given twice")
	}
	for a := range l.wire.machines {
		if slices.Contains(got, a) {
			t.Errorf("%s was given", a)
		}
	}
}

// TestProbeInTurn: who waits longest for a probe gets what it finds, and the others are told
// at once when there is nothing more.
func TestProbeInTurn(t *testing.T) {
	l := newLined(t, "10.9.0.0/29", "10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5")
	eventually(t, "all are known", func() bool { return len(l.foreigners()) == 4 })
	l.clock.add(time.Hour)
	g := l.wire.block(t)
	var all sync.WaitGroup
	all.Go(func() {
		if a, err := l.any(); err != nil || a.String() != "10.9.0.6" {
			t.Errorf("the first one got %s: %v", a, err)
		}
	})
	g.await(t, "the first one's address is probed")
	for range 8 {
		all.Go(func() {
			if _, err := l.any(); !errors.Is(err, ipam.ErrExhausted) {
				t.Errorf("one of the others: %v", err)
			}
		})
	}
	g.open()
	all.Wait()
}

// wires are the lines of several devices.
type wires map[string]*wire

func (ws wires) Probe(ctx context.Context, device, mark string, addrs []netip.Addr) (map[netip.Addr]ipam.Machine, error) {
	return ws[device].Probe(ctx, "e0", mark, addrs)
}

// TestTwoLines: what a machine has on one line is not taken twice because a container on
// another line has it, and nor is a gateway.
func TestTwoLines(t *testing.T) {
	ws := wires{"e0.100": newWire(), "e0.200": newWire()}
	devices := map[string]string{strings.Repeat("1", 64): "e0.100", strings.Repeat("2", 64): "e0.200"}
	h := newHost(t, func(c *ipam.Config) {
		c.OnLine = func(string) bool { return true }
		c.Prober, c.Line = ws, func(network string) string { return devices[network] }
	})
	run(t, h.IPAM)
	pools := map[string]string{}
	for network, device := range devices {
		pools[device] = h.subnet(t, "10.9.0.0/24")
		if err := h.Bind(t.Context(), network, prefix("10.9.0.0/24")); err != nil {
			t.Fatal(err)
		}
	}
	ws["e0.200"].set("10.9.0.8", "10.9.0.9")
	for _, a := range []string{"10.9.0.8", "10.9.0.9"} {
		_, err := h.RequestAddress(t.Context(), ipam.AddressRequest{PoolID: pools["e0.200"], Address: netip.MustParseAddr(a)})
		wantRefusal(t, err, ipam.ErrInUse, a)
	}
	h.want(t, ipam.AddressRequest{PoolID: pools["e0.200"], Address: netip.MustParseAddr("10.9.0.8"), Gateway: true}, "10.9.0.8")
	h.want(t, ipam.AddressRequest{PoolID: pools["e0.100"], Address: netip.MustParseAddr("10.9.0.9")}, "10.9.0.9")
	for _, v := range h.View() {
		for _, f := range v.Foreigners {
			if f.Held {
				t.Errorf("%s is said to be taken twice", f.Address)
			}
		}
	}
}

// TestNoLine: who is on no line is asked for nothing.
func TestNoLine(t *testing.T) {
	l := newLined(t, "10.9.0.0/24")
	other := l.subnet(t, "10.8.0.0/24")
	l.take(t, ipam.AddressRequest{PoolID: other, Gateway: true})
	if err := l.Bind(t.Context(), strings.Repeat("2", 64), prefix("10.8.0.0/24")); err != nil {
		t.Fatal(err)
	}
	l.want(t, ipam.AddressRequest{PoolID: other}, "10.8.0.2")
	l.probed("10.9.0.9", 1)
	for a := range maps.Keys(l.wire.asked) {
		if prefix("10.8.0.0/24").Contains(a) {
			t.Errorf("%s was probed", a)
		}
	}
}

// TestClusterProbe: hosts that share a pool keep what machines have, so that no other host
// tries it, and give it back with the pool.
func TestClusterProbe(t *testing.T) {
	const subnet = "10.9.0.0/27"
	w, f := newWire(), store.NewFake()
	w.set("10.9.0.3", "10.9.0.9", "10.9.0.10", "10.9.0.20", "10.9.0.30")
	lines := func(m *member) {
		m.line = func(c *ipam.Config) { c.Prober, c.Line = w, func(string) string { return "e0" } }
	}
	hosts := []*member{newMember(t, "h1", f, lines), newMember(t, "h2", f.Peer(), lines)}
	var pools []string
	for _, m := range hosts {
		m.awaitMember()
		pools = append(pools, m.pool(subnet))
		if err := m.Bind(t.Context(), lineNetwork, prefix(subnet)); err != nil {
			t.Fatal(err)
		}
	}
	given := map[netip.Addr]bool{}
	for i := range 24 { // of 29 containers could have, machines have five
		a := hosts[i%2].get(pools[i%2])
		if given[a] || w.machines[a].MAC != nil {
			t.Errorf("%s was given", a)
		}
		given[a] = true
	}
	_, err := hosts[0].RequestAddress(t.Context(), ipam.AddressRequest{PoolID: pools[0]})
	wantRefusal(t, err, ipam.ErrExhausted)
	for a := range w.machines {
		refused := 0
		for i, m := range hosts {
			err := m.explicit(pools[i], a.String())
			if errors.Is(err, ipam.ErrInUse) && strings.Contains(err.Error(), "a machine that is not weft's") {
				refused++
			}
		}
		if refused != 2 {
			t.Errorf("%s was refused by %d hosts", a, refused)
		}
	}
	// The second host has asked last, and remembers them. Another host may take the gateway
	// nevertheless, which is a machine's, and what a machine had.
	w.set("10.9.0.9")
	gateway := ipam.AddressRequest{PoolID: pools[0], Address: netip.MustParseAddr("10.9.0.9"), Gateway: true}
	if _, err := hosts[0].RequestAddress(t.Context(), gateway); err != nil {
		t.Errorf("the gateway is a machine's: %v", err)
	}
	if err := hosts[0].explicit(pools[0], "10.9.0.3"); err != nil {
		t.Errorf("the machine is gone: %v", err)
	}
	if len(w.marks) != 1 {
		t.Errorf("the hosts use the marks %v", w.marks)
	}
	for i, m := range hosts {
		if err := m.ReleasePool(t.Context(), pools[i]); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range hosts {
		eventually(t, m.name+" owns nothing any more", func() bool { return ownedBy(t, f, m.cluster.Me()) == 0 && !m.inside(subnet) })
	}
}

// TestClusterAmongMachines: a host that meets machines only takes no more of the addresses that
// all hosts share, while nobody wants one.
func TestClusterAmongMachines(t *testing.T) {
	const subnet = "10.8.0.0/16"
	synctest.Test(t, func(t *testing.T) {
		w, f := newWire(), store.NewFake()
		w.fill(true)
		lines := func(m *member) {
			m.line = func(c *ipam.Config) { c.Prober, c.Line = w, func(string) string { return "e0" } }
		}
		hosts := []*member{newMember(t, "h1", f, lines), newMember(t, "h2", f.Peer())}
		var pools []string
		for _, m := range hosts {
			m.awaitMember()
			pools = append(pools, m.pool(subnet))
		}
		if err := hosts[0].Bind(t.Context(), lineNetwork, prefix(subnet)); err != nil {
			t.Fatal(err)
		}
		owned := func() int { return ownedBy(t, f, hosts[0].cluster.Me()) }
		eventually(t, "it has some at hand", func() bool { return owned() > 0 })
		idle := func() {
			t.Helper()
			was := owned()
			for range 60 {
				time.Sleep(time.Minute)
				if n := owned(); n != was {
					t.Fatalf("nobody asked for an address, and the host owns %d of them instead of %d", n, was)
				}
			}
		}
		time.Sleep(time.Minute)
		if n := owned(); n > 256 { // a row, and what is at hand beside it
			t.Errorf("without a request the host owns %d addresses", n)
		}
		idle()
		w.mu.Lock()
		w.slow = 500 * time.Millisecond
		w.mu.Unlock()
		for range 6 {
			_, err := hosts[0].RequestAddress(t.Context(), ipam.AddressRequest{PoolID: pools[0]})
			wantRefusal(t, err, ipam.ErrProbe, "machines have")
		}
		idle()
		if n := owned(); n > 1024+2*64 {
			t.Errorf("after some requests the host owns %d addresses", n)
		}
		w.fill(false)
		hosts[0].get(pools[0])
	})
}

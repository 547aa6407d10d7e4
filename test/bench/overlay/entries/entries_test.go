//go:build bench

package entries_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/directory/directorytest"
	"github.com/weft-net/weft/internal/firewall"
	"github.com/weft-net/weft/internal/hostport"
	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/store"
	"github.com/weft-net/weft/internal/store/storetest"
	"github.com/weft-net/weft/overlay"
	"github.com/weft-net/weft/test/bench/board"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

const (
	endpoints = 1000
	name      = "demo"
)

// book says that this host takes part in the network already.
type book struct{}

func (book) HostAddresses(string) (own, lost []netip.Prefix) {
	return []netip.Prefix{netip.MustParsePrefix("10.60.255.1/16")}, nil
}

func (b book) TakeHostAddresses(_ context.Context, network string) ([]netip.Prefix, error) {
	own, _ := b.HostAddresses(network)
	return own, nil
}

func (book) Shared(string, netip.Prefix) (string, error) { return "", nil }

// noPorts reserves nothing.
type noPorts struct{}

func (noPorts) Reserve(hostport.Request) ([]hostport.Mapping, error) { return nil, nil }
func (noPorts) Release(string)                                       {}

// watched is a kernel that tells when entries were programmed.
type watched struct {
	*kernel.Host
	mu    sync.Mutex
	count int // entries added less entries deleted
	calls int
	grown chan struct{} // closed when count is goal
	goal  int
	done  time.Time
}

func (w *watched) ApplyForwarding(c kernel.ForwardingChanges) error {
	err := w.Host.ApplyForwarding(c)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls++
	w.count += len(c.Add.FDB) + len(c.Add.Neighbors) - len(c.Delete.FDB) - len(c.Delete.Neighbors)
	if w.count == w.goal && w.grown != nil {
		w.done = time.Now()
		close(w.grown)
		w.grown = nil
	}
	return err
}

// await returns a channel that is closed when so many more entries are there.
func (w *watched) await(more int) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.goal, w.calls, w.grown = w.count+more, 0, make(chan struct{})
	return w.grown
}

// member is what every host of the cluster has.
type member struct {
	*testing.T
	*directorytest.Host
}

func newMember(t *testing.T, etcd *storetest.Cluster, name, address string, onChange func(string)) *member {
	t.Helper()
	s, err := store.Open(store.Config{Endpoints: etcd.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &member{T: t, Host: directorytest.New(t, directorytest.Config{
		Name: name, Store: s, Dir: t.TempDir(), OnChange: onChange, Address: func() netip.Addr { return netip.MustParseAddr(address) },
	})}
}

func (m *member) must(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

// run starts the host and waits for the store.
func (m *member) run(tasks ...func(context.Context) error) {
	m.Helper()
	m.Start(tasks...)
	m.Until("the host is a member", m.Ready)
}

// programmer is the host whose kernel is watched.
type programmer struct {
	*member
	kernel *watched
	net    driver.Network
}

func newProgrammer(t *testing.T, etcd *storetest.Cluster) *programmer {
	t.Helper()
	for _, args := range []string{"link add eth0 type veth peer name far", "addr add 192.0.2.1/16 dev eth0", "link set eth0 up", "link set far up"} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v %s", args, err, out)
		}
	}
	var kind *overlay.Kind
	p := &programmer{member: newMember(t, etcd, "h0", "192.0.2.1", func(uuid string) { kind.Changed(uuid) })}
	k, err := kernel.Open(kernel.Config{})
	p.must(err)
	t.Cleanup(func() { _ = k.Close() })
	p.kernel = &watched{Host: k}
	kind = overlay.New(overlay.Config{
		Kernel: p.kernel, Firewall: &firewall.Fake{}, Ports: noPorts{}, Later: kernel.NewLater(k, 0, nil), Directory: p.Directory, Addresses: book{},
		Me: p.Cluster.Me, Underlay: func() netip.Addr { return netip.MustParseAddr("192.0.2.1") },
	})
	d, err := driver.New(driver.Config{Journal: p.Journal, Kernel: k, Firewall: &firewall.Fake{}, Kinds: map[string]driver.Kind{"overlay": kind}, DefaultMode: "overlay"})
	p.must(err)
	p.run(kind.Run)
	subnet := netip.MustParsePrefix("10.60.0.0/16")
	p.must(d.CreateNetwork(t.Context(), driver.Network{ID: strings.Repeat("a", 64), Options: map[string]string{"net": name},
		IPv4: []driver.Subnet{{Pool: subnet, Gateway: subnet.Addr().Next()}}}))
	p.net = d.Networks()[0]
	return p
}

// peers are hosts that only publish.
func peers(t *testing.T, etcd *storetest.Cluster, n int) []*member {
	t.Helper()
	var out []*member
	for i := range n {
		m := newMember(t, etcd, fmt.Sprintf("h%d", 1+i), fmt.Sprintf("192.0.2.%d", 2+i), nil)
		m.run()
		storetest.Eventually(t, 10*time.Second, "the network's name", func() error {
			have, ok := m.Named(name)
			if !ok {
				return errors.New("it is unknown")
			}
			joined, err := m.Join(t.Context(), have.UUID)
			if err == nil {
				m.Attend(joined)
			}
			return err
		})
		out = append(out, m)
	}
	return out
}

// endpoint is the i-th.
func endpoint(i int) directory.Endpoint {
	a := netip.AddrFrom4([4]byte{10, 60, byte(1 + i/250), byte(1 + i%250)})
	return directory.Endpoint{ID: fmt.Sprintf("%064x", i), MAC: driver.MAC("bench", a).String(), Addrs: []netip.Addr{a}}
}

// TestEntries publishes 1,000 endpoints and waits until a host has all their entries:
// two of the FDB and one neighbour for each.
func TestEntries(t *testing.T) {
	etcd := storetest.Start(t, storetest.Config{Version: "3.5", Members: 3})
	b := &board.Board{}
	defer b.Print(t)
	p := newProgrammer(t, etcd)
	all := peers(t, etcd, 10)
	for _, n := range []int{1, len(all)} {
		p.measure(b, all[:n])
	}
}

func (p *programmer) measure(b *board.Board, from []*member) {
	p.Helper()
	const rounds, each, most = 10, 3, 500 * time.Millisecond
	uuid := p.net.Shared.UUID
	publish := func(i int) { from[i%len(from)].Publish(uuid, endpoint(i)) }
	withdraw := func(i int) { from[i%len(from)].Withdraw(uuid, endpoint(i).ID) }
	var took []time.Duration
	var calls []int
	for round := range rounds + 1 {
		// The first endpoint of a host adds the host to those that broadcasts go to.
		more := each*endpoints + len(from)
		begin := p.all(publish, more)
		if round > 0 { // the first round warms up
			took, calls = append(took, p.kernel.done.Sub(begin)), append(calls, p.kernel.calls)
		}
		p.check(more)
		p.all(withdraw, -more)
	}
	what := fmt.Sprintf("%d endpoints of %d hosts: from their publication until all %d entries are in the kernel", endpoints, len(from), each*endpoints+len(from))
	b.AtMost(what+", slowest of "+fmt.Sprint(rounds), board.Quantile(took, 1), most)
	b.Note("  median; calls to the kernel", "%v; %d", board.Median(took).Round(time.Millisecond), board.Median(calls))
}

// all does something for every endpoint and waits for its entries.
func (p *programmer) all(do func(i int), more int) (begin time.Time) {
	p.Helper()
	done := p.kernel.await(more)
	begin = time.Now()
	for i := range endpoints {
		do(i)
	}
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		p.Fatalf("of %d entries %d are missing", more, p.kernel.goal-p.kernel.count)
	}
	return begin
}

// check counts what the kernel really has.
func (p *programmer) check(want int) {
	p.Helper()
	fdb, err := p.kernel.FDB(p.net.Tunnel)
	p.must(err)
	neighbors, err := p.kernel.Neighbors(p.net.Device)
	p.must(err)
	if got := len(fdb) + len(neighbors); got != want {
		p.Fatalf("the kernel has %d entries, not %d", got, want)
	}
}

//go:build bench

package macvlan_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/kernel/kerneltest"
	"github.com/weft-net/weft/test/bench/board"
)

// bench is a host with a card e0, and one container's sandbox.
type bench struct {
	*testing.T
	host    *kernel.Host
	nl      *netlink.Handle // of the host
	inside  *netlink.Handle // of the sandbox
	sandbox string
	ns      *os.File
}

func newBench(t *testing.T) *bench {
	t.Helper()
	kerneltest.Needs(t, "macvlan")
	b := &bench{T: t, host: kerneltest.Host(t), sandbox: kerneltest.Namespace(t)}
	far := kerneltest.Namespace(t)
	kerneltest.Run(t, "", "ip", "link", "add", "e0", "type", "veth", "peer", "name", "e1", "netns", far)
	kerneltest.Run(t, "", "ip", "link", "set", "e0", "up")
	kerneltest.Run(t, far, "ip", "link", "set", "e1", "up")
	var err error
	b.ns, err = os.Open(b.sandbox)
	b.must(err)
	b.nl, err = netlink.NewHandle()
	b.must(err)
	b.inside, err = netlink.NewHandleAt(netns.NsHandle(b.ns.Fd()))
	b.must(err)
	t.Cleanup(func() {
		b.nl.Close()
		b.inside.Close()
		b.must(b.ns.Close())
	})
	return b
}

// must ends the calling goroutine on an error, whichever it is.
func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Error(err)
		runtime.Goexit()
	}
}

// child is the device of the n-th attach.
func child(n int) kernel.Child {
	return kernel.Child{Kind: kernel.Macvlan, Name: fmt.Sprintf("wp-%d", n), Alias: fmt.Sprintf("weft endpoint %d", n),
		Parent: "e0", Mode: "bridge", MAC: net.HardwareAddr{2, 0, 0, 0, byte(n >> 8), byte(n)}}
}

const address = "10.9.0.2/24"

// direct is what weft does with attach=direct: named, addressed, without IPv6, up and
// announced.
func (b *bench) direct(n int) time.Duration {
	b.Helper()
	return b.attach(kernel.ChildAttachment{Child: child(n), Addrs: []netip.Prefix{netip.MustParsePrefix(address)},
		Sysctls: []kernel.Sysctl{{Key: "net.ipv6.conf.IFNAME.disable_ipv6", Value: "1"}}})
}

// bare makes the device in the sandbox and nothing more.
func (b *bench) bare(n int) time.Duration {
	b.Helper()
	return b.attach(kernel.ChildAttachment{Child: child(n), Down: true})
}

func (b *bench) attach(a kernel.ChildAttachment) time.Duration {
	b.Helper()
	a.Name, a.Prefix, a.Sandbox = "", "weft", b.sandbox
	begin := time.Now()
	_, err := b.host.AttachChild(a)
	took := time.Since(begin)
	b.must(err)
	b.must(b.host.DetachChild(b.sandbox, a.Alias))
	return took
}

// moved is what weft and the engine do with attach=docker, in as few messages as that
// takes. The first duration ends with the move, the second with a device that is named,
// addressed and up. (The engine takes IPv6 off and announces as well.)
func (b *bench) moved(n int) (move, whole time.Duration) {
	b.Helper()
	c := child(n)
	begin := time.Now()
	b.must(b.host.AddChild(c))
	link, err := b.nl.LinkByName(c.Name)
	b.must(err)
	b.must(b.nl.LinkSetNsFd(link, int(b.ns.Fd())))
	move = time.Since(begin)
	link, err = b.inside.LinkByName(c.Name)
	b.must(err)
	b.must(b.inside.LinkSetName(link, "eth0"))
	addr, err := netlink.ParseAddr(address)
	b.must(err)
	b.must(b.inside.AddrAdd(link, addr))
	b.must(b.inside.LinkSetUp(link))
	whole = time.Since(begin)
	b.must(b.inside.LinkDel(link))
	return move, whole
}

// TestAttach measures both ways in turn.
func TestAttach(t *testing.T) {
	const rounds, warm, least = 200, 5, 30
	b := newBench(t)
	took := map[string][]time.Duration{}
	add := func(i int, what string, d time.Duration) {
		if i >= warm {
			took[what] = append(took[what], d)
		}
	}
	const bare, moved, direct, whole, again = "the device alone, made in the sandbox", "made on the host and moved",
		"attach=direct: named, addressed, up, announced", "made, moved, named, addressed, up", "control: attach=direct again"
	ended := make(chan struct{})
	go func() { // not the test's goroutine, which has a thread of its own: weft's have none
		defer close(ended)
		for i := range rounds + warm {
			n := 4 * i
			add(i, direct, b.direct(n))
			move, all := b.moved(n + 1)
			add(i, moved, move)
			add(i, whole, all)
			add(i, again, b.direct(n+2))
			add(i, bare, b.bare(n+3))
		}
	}()
	if <-ended; t.Failed() {
		return
	}
	table := &board.Board{}
	defer table.Print(t)
	for _, what := range []string{bare, moved, direct, again, whole} {
		all := took[what]
		table.Note(what+", p50, p99, slowest", "%v  %v  %v  (%d)", board.Median(all).Round(time.Microsecond),
			board.Quantile(all, 0.99).Round(time.Microsecond), slices.Max(all).Round(time.Microsecond), len(all))
	}
	ratio := func(a, b string) float64 { return float64(board.Median(took[a])) / float64(board.Median(took[b])) }
	table.AtMost("attach=direct, p50", board.Median(took[direct]), time.Millisecond)
	for _, pair := range [][2]string{{moved, bare}, {whole, direct}} {
		times := ratio(pair[0], pair[1])
		table.Add(times < least, pair[0]+", against "+pair[1], fmt.Sprintf("≥ %d×", least), "%.0f×", times)
	}
	table.Note("the control against it", "%.2f×", ratio(again, direct))
}
